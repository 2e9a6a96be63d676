"""Converts the backbone to timm's plain ``VisionTransformer``."""

from __future__ import annotations

from typing import Any

from timm.layers import GluMlp
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mmadclr.checkpoint.architecture import mlp_ratio
from mmadclr.models.backbones.query_vit import QueryViT


def vision_transformer_arguments(model: QueryViT) -> dict[str, Any]:
    """JSON-serializable arguments of timm's ``VisionTransformer`` and of its named architectures that describe a backbone.

    Raises:
        ValueError: It has rotary positions or gated feed-forward layers, which these arguments do not support.
    """
    block = model.blocks[0]
    lacking = {'rotary positions (rope)': model.rope is not None, 'gated feed-forward layers': isinstance(block.mlp, GluMlp)}
    if any(lacking.values()):
        raise ValueError(
            f'the backbone has {" and ".join(name for name, has in lacking.items() if has)}, which a plain vision '
            'transformer does not support: use the checkpoint itself, with load_weights'
        )
    arguments = dict(
        img_size=list(model.patch_embed.img_size),
        patch_size=model.patch_size,
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=mlp_ratio(block.mlp.fc1.out_features, model.embed_dim),
        num_classes=0,
        dynamic_img_size=True,
    )
    if model.cls_token is None:
        arguments.update(class_token=False, global_pool='avg', fc_norm=False)
    if model.reg_token is not None:
        arguments.update(reg_tokens=model.reg_token.shape[1], no_embed_class=True)
    if model.layer_scale is not None:
        arguments.update(init_values=model.layer_scale)
    if isinstance(model.norm, nn.Identity):
        arguments.update(final_norm=False)
    return arguments


def plain_vit(model: QueryViT) -> VisionTransformer:
    """A copy of the weights in timm's own class, in evaluation mode and without gradients."""
    plain = VisionTransformer(weight_init='skip', **vision_transformer_arguments(model))
    plain.load_state_dict(model.state_dict())
    for module in plain.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = model.blocks[0].norm1.eps
    return plain.requires_grad_(False).eval()
