"""Folders for ``AutoModel`` of ``transformers``: DINOv3 with rotary positions, DINOv2 with registers, layer scales or gated
layers, otherwise ViT.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mmadclr.checkpoint.architecture import mlp_ratio
from mmadclr.checkpoint.library_config import OWN_KEY
from mmadclr.datasets.center_crop import short_side
from mmadclr.hub.export.eva import rope_base, with_computed_periods
from mmadclr.hub.export.formats import WEIGHTS, Features, Format, own_facts, require, split_tokens
from mmadclr.hub.export.plain import effective_state, is_gated
from mmadclr.hub.opening import OpenedBackbone
from mmadclr.models.backbones.query_vit import QueryViT

PURPOSE = 'the format hf'
ONCE = {
    'cls_token': 'embeddings.cls_token',
    'reg_token': 'embeddings.register_tokens',
    'patch_embed.proj.': 'embeddings.patch_embeddings.projection.',
    'norm.': 'layernorm.',
}
# Within a block: timm's name to transformers'.
VIT = {
    'norm1.': 'layernorm_before.',
    'norm2.': 'layernorm_after.',
    'attn.proj.': 'attention.output.dense.',
    'mlp.fc1.': 'intermediate.dense.',
    'mlp.fc2.': 'output.dense.',
}
GATED = {'mlp.fc1.': 'mlp.weights_in.', 'mlp.fc2.': 'mlp.weights_out.'}
DINOV2 = {
    'attn.proj.': 'attention.output.dense.',
    'ls1.gamma': 'layer_scale1.lambda1',
    'ls2.gamma': 'layer_scale2.lambda1',
}


DINOV3 = {
    'attn.proj.': 'attention.o_proj.',
    'mlp.fc1.': 'mlp.up_proj.',
    'mlp.fc2.': 'mlp.down_proj.',
    'ls1.gamma': 'layer_scale1.lambda1',
    'ls2.gamma': 'layer_scale2.lambda1',
}


class HuggingFaceFolder(Format):
    """``config.json``, ``model.safetensors`` and ``preprocessor_config.json``."""

    packages, loaders = ('transformers',), 'transformers'
    preparation = ' So does `AutoImageProcessor`, whose crop may be shifted by one pixel if the margin is odd.'

    def check(self, opened: OpenedBackbone) -> None:
        model = opened.model
        lacking = [what for what, lacks in _lacks(model).items() if lacks]
        if lacking:
            raise ValueError(
                f'transformers has no model without {" and ".join(lacking)}; use one of the formats timm, safetensors, '
                'onnx and torchscript'
            )
        if model.rope is not None:
            rope_base(model.rope)
        elif is_gated(model):
            _dinov2_ratio(model)
        height, width = opened.img_size
        if has_square_grid(model) and height != width:
            raise ValueError(
                'with registers or layer scales, transformers requires a square grid of positions, but this one is for '
                f'{height}x{width} pixels; use one of the formats timm, safetensors, onnx and torchscript'
            )

    def write(self, opened: OpenedBackbone, folder: Path) -> None:
        transformers = require('transformers', PURPOSE)
        _config(transformers, opened).save_pretrained(folder)
        # By itself: in memory, a model of transformers 5 has other names for its tensors than in a file.
        state = {
            name: tensor.contiguous().clone() for name, tensor in transformers_state(opened.model, opened.mask_token).items()
        }
        save_file(state, folder / WEIGHTS, {'format': 'pt'})
        _image_processor(transformers, opened).save_pretrained(folder)

    def load(self, folder: Path) -> Features:
        transformers = require('transformers', PURPOSE)
        config = transformers.AutoConfig.from_pretrained(folder)
        if config.model_type == 'vit':
            model = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
            return lambda images: split_tokens(model(images, **_interpolation(config, images)).last_hidden_state, True, 1)
        model = transformers.AutoModel.from_pretrained(folder).eval()
        num_prefix = 1 + getattr(config, 'num_register_tokens', 0)
        return lambda images: split_tokens(model(images).last_hidden_state, True, num_prefix)

    def snippet(self, opened: OpenedBackbone, folder: str) -> str:
        prefix = opened.model.num_prefix_tokens
        pooling = '' if is_dinov2(opened.model) or opened.model.rope is not None else ', add_pooling_layer=False'
        return (
            'from transformers import AutoModel\n'
            f"model = AutoModel.from_pretrained('{folder}'{pooling}).eval()\n"
            'tokens = model(images).last_hidden_state'
            f'  # tokens[:, 0] is [CLS], tokens[:, {prefix}:] are the patches\n'
        )

    def keeps_rule(self, opened: OpenedBackbone) -> bool:
        model = opened.model
        return model.rope is not None or (model.reg_token is not None and model.pos_embed_resize == 'size')

    def takes_other_sizes(self, opened: OpenedBackbone) -> bool:
        return opened.model.rope is not None or opened.img_size[0] == opened.img_size[1]

    def exported(self, opened: OpenedBackbone) -> OpenedBackbone:
        return with_computed_periods(opened)


def is_dinov2(model: QueryViT) -> bool:
    """Whether the backbone has features that transformers' ViT lacks, and a position embedding."""
    has_more = model.reg_token is not None or model.layer_scale is not None or is_gated(model)
    return has_more and model.rope is None


def has_square_grid(model: QueryViT) -> bool:
    """Whether transformers' model of the backbone describes its grid by one side."""
    return is_dinov2(model) or model.rope is not None


def transformers_state(model: QueryViT, mask_token: Tensor | None = None) -> dict[str, Tensor]:
    """The tensors of a backbone under transformers' names; a mask token, which some models always have, of zeros if None."""
    token = torch.zeros(1, model.embed_dim) if mask_token is None else mask_token
    if model.rope is not None:
        return _dinov3_state(model, token)
    dinov2 = is_dinov2(model)
    names = {**DINOV2, **(GATED if is_gated(model) else {})} if dinov2 else VIT
    state = {}
    for name, tensor in effective_state(model).items():
        if name == 'pos_embed':
            state['embeddings.position_embeddings'] = _with_position_of_cls(model)
        elif name.startswith('blocks.'):
            _, number, rest = name.split('.', 2)
            new = _block_state(rest, tensor, names)
            state.update({f'encoder.layer.{number}.{key}': value for key, value in new.items()})
        else:
            state[_renamed(name, ONCE)] = tensor
    if dinov2:
        state['embeddings.mask_token'] = token
        state |= _unit_scales(model, 'encoder.layer')
    return state


def _dinov3_state(model: QueryViT, mask_token: Tensor) -> dict[str, Tensor]:
    once = {**ONCE, 'patch_embed.proj.': 'embeddings.patch_embeddings.', 'norm.': 'norm.'}
    state: dict[str, Tensor] = {'embeddings.mask_token': mask_token[None]}
    if model.reg_token is None:
        state['embeddings.register_tokens'] = torch.empty(1, 0, model.embed_dim)
    for name, tensor in effective_state(model).items():
        if name.startswith('blocks.'):
            _, number, rest = name.split('.', 2)
            state |= {f'layer.{number}.{key}': t for key, t in _dinov3_block(rest, tensor, is_gated(model)).items()}
        elif name != 'rope.periods':
            state[_renamed(name, once)] = tensor
    if not _has_key_bias(model):
        state = {name: tensor for name, tensor in state.items() if not name.endswith('.k_proj.bias')}
    return state | _unit_scales(model, 'layer')


def _dinov3_block(name: str, tensor: Tensor, gated: bool) -> dict[str, Tensor]:
    kind = name.rpartition('.')[2]
    if name.startswith('attn.qkv.'):
        return {f'attention.{part}_proj.{kind}': values for part, values in zip('qkv', tensor.chunk(3), strict=True)}
    if gated and name.startswith('mlp.fc1.'):
        parts = zip(('gate_proj', 'up_proj'), tensor.chunk(2), strict=True)
        return {f'mlp.{part}.{kind}': values for part, values in parts}
    return {_renamed(name, DINOV3): tensor}


def _has_key_bias(model: QueryViT) -> bool:
    return any(block.attn.qkv.bias is not None and bool(block.attn.qkv_bias().chunk(3)[1].any()) for block in model.blocks)


def _unit_scales(model: QueryViT, blocks: str) -> dict[str, Tensor]:
    """Layer scales of one, which these models of transformers always have, for a backbone without any."""
    numbers = range(len(model.blocks) if model.layer_scale is None else 0)
    return {f'{blocks}.{number}.layer_scale{i}.lambda1': torch.ones(model.embed_dim) for number in numbers for i in (1, 2)}


def _block_state(name: str, tensor: Tensor, names: dict[str, str]) -> dict[str, Tensor]:
    if not name.startswith('attn.qkv.'):
        return {_renamed(name, names): tensor}
    kind = name.removeprefix('attn.qkv.')
    parts = zip(('query', 'key', 'value'), tensor.chunk(3), strict=True)
    return {f'attention.attention.{part}.{kind}': values for part, values in parts}


def _renamed(name: str, names: dict[str, str]) -> str:
    return next((new + name.removeprefix(old) for old, new in names.items() if name.startswith(old)), name)


def _with_position_of_cls(model: QueryViT) -> Tensor:
    """With registers, [CLS] has no position in our model; in transformers it always has one."""
    if not model.no_embed_class:
        return model.pos_embed
    return torch.cat((torch.zeros_like(model.pos_embed[:, :1]), model.pos_embed), dim=1)


def _lacks(model: QueryViT) -> dict[str, bool]:
    return {'class token': model.cls_token is None, 'final norm': isinstance(model.norm, torch.nn.Identity)}


def _config(transformers: ModuleType, opened: OpenedBackbone) -> Any:
    model = opened.model
    block, (height, width) = model.blocks[0], opened.img_size
    hidden = block.mlp.fc2.in_features
    common: dict[str, Any] = dict(
        hidden_size=model.embed_dim,
        num_hidden_layers=len(model.blocks),
        num_attention_heads=block.attn.num_heads,
        layer_norm_eps=model.blocks[0].norm1.eps,
        patch_size=model.patch_size,
        image_size=height if height == width else [height, width],
        dtype=torch.float32,
        # Read when the folder is loaded by this package; transformers keeps unknown keys.
        **{OWN_KEY: own_facts(opened)},
    )
    registers = 0 if model.reg_token is None else model.reg_token.shape[1]
    if model.rope is not None:
        return _dinov3_config(transformers, model, dict(common, num_register_tokens=registers, intermediate_size=hidden))
    has_bias = block.attn.qkv.bias is not None
    common.update(qkv_bias=has_bias)
    if not is_dinov2(model):
        return transformers.ViTConfig(intermediate_size=hidden, architectures=['ViTModel'], **common)
    ratio = _dinov2_ratio(model) if is_gated(model) else mlp_ratio(hidden, model.embed_dim)
    ratio = int(ratio) if ratio.is_integer() else ratio  # transformers 5 takes integers only
    common.update(mlp_ratio=ratio, layerscale_value=1.0, use_swiglu_ffn=is_gated(model))
    if model.reg_token is None:
        return transformers.Dinov2Config(architectures=['Dinov2Model'], **common)
    common.update(num_register_tokens=registers, architectures=['Dinov2WithRegistersModel'])
    return transformers.Dinov2WithRegistersConfig(**common)


def _dinov3_config(transformers: ModuleType, model: QueryViT, common: dict[str, Any]) -> Any:
    has_bias, gated = model.blocks[0].attn.qkv.bias is not None, is_gated(model)
    return transformers.DINOv3ViTConfig(
        **common,
        architectures=['DINOv3ViTModel'],
        use_gated_mlp=gated,
        hidden_act='silu' if gated else 'gelu',
        rope_theta=rope_base(model.rope),
        query_bias=has_bias,
        key_bias=_has_key_bias(model),
        value_bias=has_bias,
        layerscale_value=1.0,
    )


def _dinov2_ratio(model: QueryViT) -> float:
    """The ratio from which transformers derives the width of gated layers: two thirds of it, rounded up to eights.

    Raises:
        ValueError: No ratio gives this width.
    """
    hidden = model.blocks[0].mlp.fc2.in_features
    ratio = 1.5 * hidden / model.embed_dim
    if (int(int(model.embed_dim * ratio) * 2 / 3) + 7) // 8 * 8 != hidden:
        raise ValueError(
            f'the gated layers of transformers have a multiple of 8 channels, those of this backbone {hidden}; use one of '
            'the formats timm and safetensors'
        )
    return ratio


def _image_processor(transformers: ModuleType, opened: OpenedBackbone):
    """Our evaluation transform; for non-square images both sides are resized."""
    height, width = opened.img_size
    resized = {'height': short_side(height), 'width': short_side(width)}
    return transformers.BitImageProcessor(
        size={'shortest_edge': resized['height']} if height == width else resized,
        resample=3,
        crop_size={'height': height, 'width': width},
        image_mean=list(opened.mean),
        image_std=list(opened.std),
    )


def _interpolation(config, images: Tensor) -> dict[str, bool]:
    size = config.image_size if isinstance(config.image_size, (list, tuple)) else (config.image_size,) * 2
    return dict(interpolate_pos_encoding=tuple(size) != tuple(images.shape[-2:]))
