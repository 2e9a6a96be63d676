"""From the tensors of a backbone to the arguments of the model they belong to."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

from mmadclr.checkpoint.kinds import PLAIN, foreign_kind
from mmadclr.checkpoint.layouts import BackboneWeights

CHANNELS_PER_HEAD = 64  # of every published ViT-Ti, S, B and L of this literature; those of MoCo v3's ViT-S are 32
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def infer_settings(weights: BackboneWeights, num_heads: int | None = None) -> dict:
    """Arguments of the ``QueryViT`` that a backbone fits.

    Sizes are read off the tensors. What no tensor shows comes from the file where it is one of ours: the number of heads,
    the grid if it is not square, how positions are resized; so it is with configurations beside weights. For other files,
    heads have 64 channels each, grids are square, and positions are resized as the code that trained them does it: DINOv2
    with registers by exact size, others as DINO.

    Args:
        weights: See :func:`mmadclr.checkpoint.weights.read_backbone`.
        num_heads: Attention heads, if they are known better than that.

    Raises:
        ValueError: The tensors are those of no plain vision transformer, or the number of heads cannot be told.
    """
    state, about = weights.state, weights.about
    _check_kind(state)
    embed_dim, _, patch_size, _ = state['patch_embed.proj.weight'].shape
    numbers = block_numbers(state)
    settings = dict(
        arch=dict(
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=len(numbers),
            num_heads=resolve_heads(embed_dim, num_heads or weights.num_heads),
            mlp_ratio=mlp_ratio(len(state['blocks.0.mlp.fc1.weight']), embed_dim),
        ),
        class_token='cls_token' in state,
        final_norm='norm.weight' in state,
        pos_embed_resize='size' if 'reg_token' in state else 'dino',
    )
    if 'reg_token' in state:
        settings['reg_tokens'] = state['reg_token'].shape[1]
    if 'blocks.0.ls1.gamma' in state:
        settings['layer_scale'] = 1.0
    settings['img_size'] = _img_size(state, about, patch_size)
    return {**settings, **{key: about[key] for key in ('pos_embed_resize',) if key in about}}


def resolve_heads(embed_dim: int, num_heads: int | None) -> int:
    """The number of heads, 64 channels each if it is not known.

    Raises:
        ValueError: The width is no multiple of 64 and the number not known, or not possible.
    """
    if num_heads is None and embed_dim % CHANNELS_PER_HEAD:
        raise ValueError(
            f'the file does not tell the number of attention heads, and {embed_dim} channels are no multiple of '
            f'{CHANNELS_PER_HEAD}: give num_heads (--num-heads on the command line)'
        )
    num_heads = embed_dim // CHANNELS_PER_HEAD if num_heads is None else num_heads
    if num_heads < 1 or embed_dim % num_heads:
        raise ValueError(f'num_heads={num_heads} does not divide the {embed_dim} channels of the file')
    return num_heads


def mlp_ratio(hidden: int, embed_dim: int) -> float:
    """The ratio that libraries multiply by the width, and cut to a whole number, to arrive at ``hidden`` channels."""
    ratio = hidden / embed_dim
    return ratio if int(embed_dim * ratio) == hidden else (hidden + 0.5) / embed_dim


def block_numbers(state: Mapping[str, Tensor]) -> list[int]:
    """Numbers of the blocks in ascending order."""
    return sorted({int(match[1]) for match in (re.match(r'blocks\.(\d{1,4})\.', name) for name in state) if match})


def _check_kind(state: Mapping[str, Tensor]) -> None:
    kind = foreign_kind(state)
    if kind is not None:
        raise ValueError(f'it is {kind}; what can be read is {PLAIN}')
    if 'pos_embed' not in state or state['pos_embed'].ndim != 3:
        raise ValueError(
            'there is no pos_embed (1, tokens, D): a plain vision transformer has absolute positions; those of this one may '
            'be rotary, which no tensor shows'
        )
    for name in ('blocks.0.mlp.fc1.weight', 'blocks.0.attn.qkv.weight', 'patch_embed.proj.weight'):
        if name not in state or state[name].ndim != (4 if 'proj' in name else 2) or 0 in state[name].shape:
            raise ValueError(
                f'its blocks are not those of a plain vision transformer with MLPs of two layers: {name} is '
                + (f'of shape {tuple(state[name].shape)}' if name in state else 'missing')
            )
    numbers = block_numbers(state)
    if numbers != list(range(len(numbers))):
        raise ValueError(f'its blocks have the numbers {_shortened(numbers)}: some are missing')


def _shortened(numbers: list[int]) -> str:
    return ', '.join(map(str, numbers[:6])) + (' ...' if len(numbers) > 6 else '')


def _img_size(state: Mapping[str, Tensor], about: Mapping, patch_size: int) -> tuple[int, int]:
    number = state['pos_embed'].shape[1] - ('cls_token' in state and 'reg_token' not in state)
    if 'img_size' in about:
        height, width = about['img_size']
        if (height // patch_size) * (width // patch_size) != number:
            raise ValueError(
                f'images of {height}x{width} pixels, as the file or its configuration says, have '
                f'{(height // patch_size) * (width // patch_size)} patches of {patch_size} pixels, but there are {number} '
                'positions'
            )
        return height, width
    side = math.isqrt(max(number, 0))
    if number < 1 or side**2 != number:
        raise ValueError(f'{number} positions are no square grid, and the file does not tell which grid they are')
    return side * patch_size, side * patch_size
