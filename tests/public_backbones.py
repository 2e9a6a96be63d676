"""Backbones of random weights under the names of other code bases, and the libraries' own models of the same weights."""

from __future__ import annotations

import re
from functools import partial

import pytest
import timm
import torch
from torch import Tensor, nn

from mmadclr.models.backbones.query_vit import QueryViT

# Arguments of small backbones of every public family.
ARCH = dict(embed_dim=192, depth=2, num_heads=3, patch_size=8)
DINOV3 = dict(rope=True, reg_tokens=4, layer_scale=1e-5, qkv_bias='qv', norm_eps=1e-5)
DINOV2 = dict(layer_scale=1e-5)
REG4 = dict(**DINOV2, reg_tokens=4, pos_embed_resize='size')
FAMILIES = {
    'dinov2': DINOV2,
    'dinov2 swiglu': dict(**DINOV2, ffn='swiglu'),
    'registers': REG4,
    'registers swiglu': dict(**REG4, ffn='swiglu'),
    'dinov3': DINOV3,
    'dinov3 swiglu': dict(**DINOV3, ffn='swiglu'),
    'dinov3 no bias': DINOV3 | dict(qkv_bias=False),
    'dinov3 swiglu no bias': dict(**DINOV3, ffn='swiglu') | dict(qkv_bias=False),
}
TO_TRANSFORMERS = (
    (r'^blocks\.', 'encoder.layer.'),
    (r'^(cls_token|mask_token)$', r'embeddings.\1'),
    (r'^reg_token$', 'embeddings.register_tokens'),
    (r'^pos_embed$', 'embeddings.position_embeddings'),
    (r'^patch_embed\.proj\.', 'embeddings.patch_embeddings.projection.'),
    (r'^norm\.', 'layernorm.'),
    (r'\.ls([12])\.gamma$', r'.layer_scale\1.lambda1'),
    (r'\.attn\.proj\.', '.attention.output.dense.'),
    (r'\.attn\.qkv\.', '.attention.attention.QKV.'),
)
TO_DINOV3 = (
    (r'^encoder\.layer\.', 'layer.'),
    (r'^embeddings\.patch_embeddings\.projection\.', 'embeddings.patch_embeddings.'),
    (r'^layernorm\.', 'norm.'),
    (r'\.attention\.output\.dense\.', '.attention.o_proj.'),
    (r'\.attention\.attention\.(query|key|value)\.', lambda match: f'.attention.{match[1][0]}_proj.'),
    (r'\.mlp\.fc1\.', '.mlp.up_proj.'),
    (r'\.mlp\.fc2\.', '.mlp.down_proj.'),
)


def randomize(model: nn.Module) -> nn.Module:
    """Weights under which every tensor moves the result; norms and layer scales stay near one."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            near_one = re.search(r'norm\w*\.weight$|gamma|lambda1', name)
            scale = 0.2 if parameter.ndim < 2 or near_one else parameter[0].numel() ** -0.5 if parameter.ndim != 3 else 0.5
            parameter.normal_(1.0 if near_one else 0.0, scale)
    return model.eval()


def renamed(state: dict[str, Tensor], table) -> dict[str, Tensor]:
    found = {}
    for name, tensor in state.items():
        for pattern, replacement in table:
            name = re.sub(pattern, replacement, name)
        found[name] = tensor
    return found


def official(model: QueryViT) -> dict[str, Tensor]:
    """Under the names of DINOv2, or of DINOv3 if positions are rotary; with a mask token, as in published files."""
    dinov3, found = model.rope is not None, {'mask_token': torch.zeros(1, model.embed_dim)}
    for name, tensor in model.state_dict().items():
        name = name.replace('reg_token', 'storage_tokens' if dinov3 else 'register_tokens').replace('rope.', 'rope_embed.')
        found[name] = tensor
        if dinov3 and name.endswith('qkv.bias'):
            found[f'{name}_mask'] = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(model.embed_dim)
        if '.mlp.' in name and is_gated(model):
            del found[name]
            parts = tensor.chunk(2) if 'fc1' in name and dinov3 else [tensor]
            names = {'fc1': ('w1', 'w2') if dinov3 else ('w12',), 'fc2': ('w3',)}[name.split('.')[3]]
            found |= {re.sub('fc[12]', new, name): part for new, part in zip(names, parts, strict=True)}
    if not dinov3 and 'register_tokens' in found:  # there [CLS] has a position, here it is part of the token
        found['pos_embed'] = torch.cat((torch.zeros_like(found['pos_embed'][:, :1]), found['pos_embed']), dim=1)
    return found


def is_gated(model: QueryViT) -> bool:
    mlp = model.blocks[0].mlp
    return mlp.fc1.out_features == 2 * mlp.fc2.in_features


def of_transformers(model: QueryViT) -> dict[str, Tensor]:
    """Under the names of Dinov2Model, Dinov2WithRegistersModel or DINOv3ViTModel."""
    state = {'mask_token': torch.zeros(1, model.embed_dim), **model.state_dict()}
    if model.reg_token is not None and model.pos_embed is not None:
        state['pos_embed'] = torch.cat((torch.zeros_like(model.pos_embed[:, :1]), model.pos_embed), dim=1)
    parts = {}
    for name, tensor in renamed(state, TO_TRANSFORMERS).items():
        thirds = zip(('query', 'key', 'value'), tensor.chunk(3), strict=True) if 'QKV' in name else [('QKV', tensor)]
        parts |= {name.replace('QKV', part): third for part, third in thirds}
    if model.rope is not None:
        return _of_dinov3(parts, is_gated(model))
    return (
        renamed(parts, ((r'\.mlp\.fc1\.', '.mlp.weights_in.'), (r'\.mlp\.fc2\.', '.mlp.weights_out.')))
        if is_gated(model)
        else parts
    )


def _of_dinov3(state: dict[str, Tensor], gated: bool) -> dict[str, Tensor]:
    found = {}
    for name, tensor in renamed(state, TO_DINOV3).items():
        if gated and '.up_proj.' in name:
            found[name.replace('up_proj', 'gate_proj')], found[name] = tensor.chunk(2)
        elif not name.endswith('k_proj.bias') and name != 'rope.periods':
            found[name] = tensor[:, None] if name == 'embeddings.mask_token' else tensor
    return found


def transformers_model(model: QueryViT) -> nn.Module:
    """The model of transformers with the same weights."""
    transformers = pytest.importorskip('transformers')
    block, (height, _) = model.blocks[0], model.patch_embed.img_size
    hidden = block.mlp.fc2.in_features
    common = dict(
        hidden_size=model.embed_dim,
        num_hidden_layers=len(model.blocks),
        num_attention_heads=block.attn.num_heads,
        layer_norm_eps=model.norm.eps,
        image_size=height,
        patch_size=model.patch_size,
    )
    registers = dict(num_register_tokens=0 if model.reg_token is None else model.reg_token.shape[1])
    gated = is_gated(model)
    if model.rope is not None:
        activation = dict(use_gated_mlp=gated, hidden_act='silu' if gated else 'gelu', intermediate_size=hidden)
        biases = dict.fromkeys(('query_bias', 'value_bias'), block.attn.qkv.bias is not None)
        config = transformers.DINOv3ViTConfig(**common, **registers, **activation, **biases, key_bias=False)
        found = transformers.DINOv3ViTModel(config)
    elif model.reg_token is not None:
        found = transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(**common, **registers, use_swiglu_ffn=gated)
        )
    else:
        found = transformers.Dinov2Model(transformers.Dinov2Config(**common, use_swiglu_ffn=gated))
    found.load_state_dict(of_transformers(model))
    return found.eval()


def timm_eva(model: QueryViT, **kwargs) -> nn.Module:
    """timm's DINOv3 of the same sizes and weights, which go there by way of the official names."""
    block = model.blocks[0]
    found = timm.create_model(
        'vit_small_plus_patch16_dinov3_qkvb' if is_gated(model) else 'vit_small_patch16_dinov3_qkvb',
        num_classes=0,
        global_pool='token',
        img_size=model.patch_embed.img_size,
        patch_size=model.patch_size,
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=block.mlp.fc2.in_features / model.embed_dim,
        qkv_bias=block.attn.qkv.bias is not None,
        num_reg_tokens=0 if model.reg_token is None else model.reg_token.shape[1],
        norm_layer=partial(timm.layers.LayerNorm, eps=model.norm.eps),
        **kwargs,
    )
    state = timm.models.eva.checkpoint_filter_fn(official(model), found)
    found.load_state_dict(state)
    return found.eval()


def timm_plain(model: QueryViT) -> nn.Module:
    """timm's ``VisionTransformer`` of the same sizes and weights; the names are the same."""
    block, gated = model.blocks[0], is_gated(model)
    found = timm.models.VisionTransformer(
        img_size=model.patch_embed.img_size,
        patch_size=model.patch_size,
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=block.attn.num_heads,
        num_classes=0,
        dynamic_img_size=True,
        mlp_ratio=block.mlp.fc1.out_features / model.embed_dim,
        reg_tokens=0 if model.reg_token is None else model.reg_token.shape[1],
        no_embed_class=model.reg_token is not None,
        init_values=1.0,
        **(dict(mlp_layer=timm.layers.SwiGLUPacked, act_layer=nn.SiLU) if gated else {}),
    )
    found.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if name != 'mask_token'})
    return found.eval()


def all_tokens(model: QueryViT, images: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, 1 + R + N, D), final-normed: [CLS], registers, patches."""
    if mask is None:
        return model.intermediate_tokens(images)[0]
    x, layout = model.embed(images, mask=mask)
    return model.norm(model.run_blocks(x, layout))
