"""Infers model arguments from the tensors of a backbone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from mmadclr.checkpoint.kinds import PLAIN, foreign_kind
from mmadclr.checkpoint.layouts import BackboneWeights

CHANNELS_PER_HEAD = 64  # in all published ViT-Ti, S, B and L models except MoCo v3's ViT-S, which has 32
USUAL_EPS, EPS_OF_DINOV3 = 1e-6, 1e-5  # of norms
ROPE_BASE, BFLOAT16_ROUNDING = 100.0, 2**-8
NATIVE_PATCHES = 16  # per side, of DINOv3's training images
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def infer_settings(weights: BackboneWeights, num_heads: int | None = None) -> dict:
    """Arguments of the ``QueryViT`` that matches a backbone.

    Sizes are read from the tensors. What tensors do not show is read from the metadata of our own checkpoints or from the
    configuration file next to the weights: number of heads, non-square grids, and how positions are resized. For other
    files, heads are assumed to have 64 channels, grids to be square, norms the eps of their family, and positions are
    resized as in the original training code: by exact size for DINOv2 with registers, as DINO otherwise. Rotary positions
    are those of DINOv3.

    Args:
        weights: See :func:`mmadclr.checkpoint.weights.read_backbone`.
        num_heads: Number of attention heads; overrides the above.

    Raises:
        ValueError: The tensors are not those of a plain vision transformer, or the number of heads is unknown.
    """
    state, about = weights.state, weights.about
    _check_kind(state, about)
    embed_dim, _, patch_size, _ = state['patch_embed.proj.weight'].shape
    numbers = block_numbers(state)
    hidden = state['blocks.0.mlp.fc2.weight'].shape[1]
    settings = dict(
        arch=dict(
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=len(numbers),
            num_heads=resolve_heads(embed_dim, num_heads or weights.num_heads),
            mlp_ratio=mlp_ratio(hidden, embed_dim),
        ),
        class_token='cls_token' in state,
        final_norm='norm.weight' in state,
        pos_embed_resize='size' if {'reg_token', 'pos_embed'} <= state.keys() else 'dino',
    )
    if len(state['blocks.0.mlp.fc1.weight']) == 2 * hidden:
        settings['ffn'] = 'swiglu'
    if 'reg_token' in state:
        settings['reg_tokens'] = state['reg_token'].shape[1]
    if 'blocks.0.ls1.gamma' in state:
        settings['layer_scale'] = 1.0
    if has_rope(state, about):
        settings |= dict(rope=rope_arguments(state, about), norm_eps=EPS_OF_DINOV3)
    biases = qkv_biases(state, about)
    settings |= {} if biases is True else dict(qkv_bias=biases)
    settings['img_size'] = _img_size(state, about, patch_size)
    settings |= {key: about[key] for key in ('pos_embed_resize', 'norm_eps') if key in about}
    if settings.get('norm_eps') == USUAL_EPS:
        del settings['norm_eps']
    return settings


def has_rope(state: Mapping[str, Tensor], about: Mapping) -> bool:
    """Whether a backbone has rotary positions instead of a position embedding; see ``BackboneWeights``."""
    return 'pos_embed' not in state and ('rope.periods' in state or 'rope' in about)


def rope_arguments(state: Mapping[str, Tensor], about: Mapping) -> dict:
    """Arguments of rotary positions: those recorded, or by the periods in the file; by default, those of DINOv3.

    Published files contain periods rounded to bfloat16.
    """
    if 'rope' in about or 'rope.periods' not in state:
        return {key: value for key, value in about.get('rope', {}).items() if (key, value) != ('base', ROPE_BASE)}
    periods = state['rope.periods'].double()
    regular = ROPE_BASE ** (torch.arange(len(periods), dtype=torch.float64) / len(periods))
    if torch.allclose(periods, regular, rtol=BFLOAT16_ROUNDING, atol=0):
        return {}
    return dict(min_period=periods[0].item(), max_period=periods[-1].item())


def qkv_biases(state: Mapping[str, Tensor], about: Mapping) -> bool | str:
    """The argument ``qkv_bias`` of ``QueryViT``: recorded, or with rotary positions by the biases of the keys."""
    biases = [tensor for name, tensor in state.items() if name.endswith('.attn.qkv.bias')]
    if not biases:
        return False
    if about.get('qkv_bias', False) is not False:
        return about['qkv_bias']
    keys = [bias.chunk(3)[1] for bias in biases]
    return 'qv' if has_rope(state, about) and not any(bias.any() for bias in keys) else True


def resolve_heads(embed_dim: int, num_heads: int | None) -> int:
    """The number of heads; if None, one per 64 channels.

    Raises:
        ValueError: The number is unknown and the width is not a multiple of 64, or the number does not divide the width.
    """
    if num_heads is None and embed_dim % CHANNELS_PER_HEAD:
        raise ValueError(
            f'the file does not specify the number of attention heads, and its {embed_dim} channels are not a multiple of '
            f'{CHANNELS_PER_HEAD}: set num_heads (--num-heads on the command line)'
        )
    num_heads = embed_dim // CHANNELS_PER_HEAD if num_heads is None else num_heads
    if num_heads < 1 or embed_dim % num_heads:
        raise ValueError(f'num_heads={num_heads} does not divide the {embed_dim} channels of the file')
    return num_heads


def mlp_ratio(hidden: int, embed_dim: int) -> float:
    """The ratio that libraries multiply by the width and round down to obtain ``hidden`` channels."""
    ratio = hidden / embed_dim
    return ratio if int(embed_dim * ratio) == hidden else (hidden + 0.5) / embed_dim


def block_numbers(state: Mapping[str, Tensor]) -> list[int]:
    """Block indices in ascending order."""
    return sorted({int(match[1]) for match in (re.match(r'blocks\.(\d{1,4})\.', name) for name in state) if match})


def _check_kind(state: Mapping[str, Tensor], about: Mapping) -> None:
    kind = foreign_kind(state)
    if kind is not None:
        raise ValueError(f'it is {kind}; supported is {PLAIN}')
    if not has_rope(state, about) and ('pos_embed' not in state or state['pos_embed'].ndim != 3):
        raise ValueError(
            'pos_embed (1, tokens, D) is missing: a plain vision transformer has absolute positions; this model may have '
            'rotary positions other than those of DINOv3, which are not stored in tensors'
        )
    for name in (
        'blocks.0.mlp.fc1.weight',
        'blocks.0.mlp.fc2.weight',
        'blocks.0.attn.qkv.weight',
        'patch_embed.proj.weight',
    ):
        if name not in state or state[name].ndim != (4 if 'proj' in name else 2) or 0 in state[name].shape:
            raise ValueError(
                f'its blocks are not those of a plain vision transformer with two-layer MLPs: {name} '
                + (f'has shape {tuple(state[name].shape)}' if name in state else 'is missing')
            )
    numbers = block_numbers(state)
    if numbers != list(range(len(numbers))):
        raise ValueError(f'some blocks are missing: the file has {_shortened(numbers)}')


def _shortened(numbers: list[int]) -> str:
    return ', '.join(map(str, numbers[:6])) + (' ...' if len(numbers) > 6 else '')


def _img_size(state: Mapping[str, Tensor], about: Mapping, patch_size: int) -> tuple[int, int]:
    if 'pos_embed' not in state:
        return tuple(about.get('img_size', (NATIVE_PATCHES * patch_size,) * 2))
    number = state['pos_embed'].shape[1] - ('cls_token' in state and 'reg_token' not in state)
    if 'img_size' in about:
        height, width = about['img_size']
        if (height // patch_size) * (width // patch_size) != number:
            raise ValueError(
                f'the file or its configuration specifies images of {height}x{width} pixels, which have '
                f'{(height // patch_size) * (width // patch_size)} patches of {patch_size} pixels, but pos_embed has '
                f'{number} positions'
            )
        return height, width
    side = math.isqrt(max(number, 0))
    if number < 1 or side**2 != number:
        raise ValueError(f'{number} positions do not form a square grid, and the file does not specify another')
    return side * patch_size, side * patch_size
