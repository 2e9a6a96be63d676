"""Converts the backbone to timm's plain ``VisionTransformer``."""

from __future__ import annotations

from typing import Any

from timm.layers import GluMlp, SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mmadclr.checkpoint.architecture import mlp_ratio
from mmadclr.models.backbones.query_block import LinearWithoutKeyBias
from mmadclr.models.backbones.query_vit import QueryViT

GATED: dict[str, Any] = dict(mlp_layer=SwiGLUPacked, act_layer=nn.SiLU)


def is_gated(model: QueryViT) -> bool:
    """Whether the feed-forward layers are gated."""
    return isinstance(model.blocks[0].mlp, GluMlp)


def effective_state(model: QueryViT) -> dict[str, Tensor]:
    """The tensors of a backbone, with zeros for biases of keys that it ignores."""
    state = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, LinearWithoutKeyBias):
            state[f'{name}.bias'] = module.effective_bias().detach()
    return state


def vision_transformer_arguments(model: QueryViT) -> dict[str, Any]:
    """JSON-serializable arguments of timm's ``VisionTransformer`` and of its named architectures that describe a backbone.

    Gated feed-forward layers also need the classes of ``GATED``.

    Raises:
        ValueError: It has rotary positions, which ``VisionTransformer`` does not support.
    """
    block = model.blocks[0]
    if model.rope is not None:
        raise ValueError(
            'the backbone has rotary positions (rope), which a plain vision transformer does not support: use one of the '
            'formats timm, safetensors and hf'
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
    if block.attn.qkv.bias is None:
        arguments.update(qkv_bias=False)
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
    classes = GATED if is_gated(model) else {}
    plain = VisionTransformer(weight_init='skip', **vision_transformer_arguments(model), **classes)
    plain.load_state_dict(effective_state(model))
    for module in plain.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = model.blocks[0].norm1.eps
    return plain.requires_grad_(False).eval()
