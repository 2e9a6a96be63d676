"""Backbones with rotary positions as timm's Eva, its class for DINOv3."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

from mmadclr.hub.export.plain import effective_state, is_gated
from mmadclr.hub.opening import OpenedBackbone
from mmadclr.models.backbones.architectures import ratio_of
from mmadclr.models.backbones.query_vit import SIZES, QueryViT, resolve_arch
from mmadclr.models.backbones.rope import BASE, RotaryPositions, rotary_periods

EPS = 1e-5  # of timm's DINOv3
BFLOAT16_ROUNDING = 2**-8
GATED_NAMES = ('_plus', '7b')
NAMES = ('small', 'base', 'large', 'small_plus', 'huge_plus', '7b')


class Recipe(NamedTuple):
    """A model of timm: ``create_model(name, **options, **sizes)``, with JSON-serializable arguments.

    ``is_exact``: the named architecture has these sizes.
    """

    name: str
    options: dict[str, Any]
    sizes: dict[str, Any]
    is_exact: bool

    @property
    def arguments(self) -> dict[str, Any]:
        """All arguments."""
        return {**self.options, **self.sizes}


def eva_state(model: QueryViT) -> dict[str, Tensor]:
    """The tensors of a backbone under the names of timm's Eva, which computes periods instead of storing them.

    Without layer scales, those of timm are ones.
    """
    state = effective_state(model)
    if model.layer_scale is None:
        numbers = range(len(model.blocks))
        state |= {f'blocks.{number}.ls{i}.gamma': torch.ones(model.embed_dim) for number in numbers for i in (1, 2)}
    return eva_names(state, is_gated(model))


def eva_names(state: Mapping[str, Tensor], gated: bool) -> dict[str, Tensor]:
    """Tensors under the names of timm's Eva, from those of our backbone.

    Raises:
        ValueError: There is a bias of keys, which Eva does not support.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        new = re.sub(r'\.ls([12])\.gamma$', r'.gamma_\1', name)
        if name.endswith('.attn.qkv.bias'):
            query, key, value = tensor.chunk(3)
            if key.any():
                raise ValueError("timm's DINOv3 has no bias of keys, but this backbone has one: use the format hf")
            found |= {name.replace('qkv.bias', 'q_bias'): query, name.replace('qkv.bias', 'v_bias'): value}
        elif gated and '.mlp.fc1.' in name:
            parts = zip(('fc1_g', 'fc1_x'), tensor.chunk(2), strict=True)  # gate first, as in facebookresearch/dinov3
            found |= {name.replace('fc1', part): half for part, half in parts}
        elif name != 'rope.periods':
            found[new] = tensor
    return found


def eva_recipe(model: QueryViT) -> Recipe:
    """timm's model of a backbone.

    Raises:
        ValueError: timm does not support its rotary positions.
    """
    block, gated = model.blocks[0], is_gated(model)
    sizes = dict(
        patch_size=model.patch_size,
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=ratio_of(block.mlp.fc2.in_features, model.embed_dim),
    )
    options: dict[str, Any] = dict(img_size=list(model.patch_embed.img_size), num_classes=0, global_pool='token')
    if model.cls_token is None:
        options |= dict(class_token=False, global_pool='avg')
    if isinstance(model.norm, nn.Identity):
        options |= dict(use_post_transformer_norm=False)
    registers = 0 if model.reg_token is None else model.reg_token.shape[1]
    options |= dict(num_reg_tokens=registers, init_values=model.layer_scale or 1.0, rope_temperature=rope_base(model.rope))
    ending = '' if block.attn.qkv.bias is None else '_qkvb'
    for name in NAMES:
        full = f'vit_{name}_patch16_dinov3{ending}'
        if timm.is_model(full) and name.endswith(GATED_NAMES) == gated and _is_of_sizes(full, sizes):
            return Recipe(full, options, sizes, True)
    full = f'vit_small_{"plus_" if gated else ""}patch16_dinov3{ending}'
    return Recipe(full, options | (dict(swiglu_align_to=1) if gated else {}), sizes, False)


def with_computed_periods(opened: OpenedBackbone) -> OpenedBackbone:
    """The backbone with periods as libraries compute them; published files have them rounded to bfloat16.

    Raises:
        ValueError: The periods are not those of a base.
    """
    if opened.model.rope is None:
        return opened
    periods = rotary_periods(opened.model.rope.head_dim, rope_base(opened.model.rope)).float()
    if torch.equal(periods, opened.model.rope.periods):
        return opened
    model: Any = copy.deepcopy(opened.model)
    model.rope.periods.copy_(periods)
    return opened._replace(model=model)


def rope_base(rope: RotaryPositions | None) -> float:
    """The base of the periods, which libraries compute.

    Raises:
        ValueError: No base describes these rotary positions.
    """
    assert rope is not None, 'of a backbone with rotary positions'
    base, *limits = rope.range
    if rope.normalize_coords != 'separate' or limits != [None, None]:
        raise ValueError(
            'timm and transformers describe rotary positions by a base alone, with height and width normalized separately; '
            'those of this backbone have other arguments: keep the checkpoint itself'
        )
    base = BASE if base is None else base
    regular = rotary_periods(rope.head_dim, base).to(rope.periods)
    if not torch.allclose(rope.periods, regular, rtol=BFLOAT16_ROUNDING, atol=0):
        raise ValueError(f'the periods of the rotary positions are not those of base {base:g}: keep the checkpoint itself')
    return base


def _is_of_sizes(name: str, sizes: Mapping[str, Any]) -> bool:
    return {key: resolve_arch(name.removesuffix('_qkvb'))[key] for key in SIZES} == sizes
