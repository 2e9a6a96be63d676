"""What the protocols of dense evaluation read from a plain vision transformer, in one pass.

Shape legend: B images, P patches, D channels, H heads.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from mmadclr.models.backbones.dense_vit import pad_to_multiple
from mmadclr.models.backbones.query_block import TokenLayout
from mmadclr.models.backbones.query_vit import QueryViT

KINDS = ('patch', 'patch_before_norm', 'keys', 'attention')


def dense_features(backbone: QueryViT, images: Tensor, kinds: Collection[str]) -> dict[str, Tensor]:
    """Features of all patches of images (B, 3, H, W), by kind.

    ``'patch'``: (B, P, D) after the final norm. ``'patch_before_norm'``: (B, P, D). ``'keys'``: (B, P, D) of the last
    attention, heads concatenated, bias included, before rotary positions. ``'attention'``: (B, H, P) of [CLS] in the last
    block. Images are padded with zeros at the right and bottom to multiples of the patch size. The last block is skipped
    if only ``'keys'`` and ``'attention'`` are requested.

    Raises:
        ValueError: Another kind, or attention of a backbone without class token.
    """
    check_kinds(backbone, kinds)
    x, layout = backbone.embed(pad_to_multiple(images, backbone.patch_size))
    for index, block in enumerate(backbone.blocks[:-1]):
        x = block(x, layout.of_block(index))
    first = backbone.num_prefix_tokens
    found: dict[str, Tensor] = {}
    if {'keys', 'attention'} & set(kinds):
        found |= _of_attention(backbone, x, layout.of_block(-1), kinds)
    if {'patch', 'patch_before_norm'} & set(kinds):
        x = backbone.blocks[-1](x, layout.of_block(-1))
        found['patch_before_norm'] = x[:, first:]
        if 'patch' in kinds:
            found['patch'] = backbone.norm(x)[:, first:]
    return {kind: found[kind] for kind in kinds}


def block_maps(backbone: QueryViT, images: Tensor, blocks: Sequence[int], final_norm: bool = True) -> Tensor:
    """Outputs of several blocks as one map (B, K D, h, w), concatenated in the given order.

    Args:
        backbone: See there.
        images: (B, 3, H, W), padded with zeros at the right and bottom to multiples of the patch size.
        blocks: K block indices; negative ones count from the last.
        final_norm: Apply the final norm to every output.

    Raises:
        ValueError: No block, or one that does not exist.
    """
    wanted = check_blocks(blocks, len(backbone.blocks))
    images = pad_to_multiple(images, backbone.patch_size)
    height, width = (side // backbone.patch_size for side in images.shape[-2:])
    x, layout = backbone.embed(images)
    found = {}
    for index, block in enumerate(backbone.blocks[: max(wanted) + 1]):
        x = block(x, layout.of_block(index))
        if index in wanted:
            tokens = backbone.norm(x) if final_norm else x
            found[index] = tokens[:, backbone.num_prefix_tokens :].transpose(1, 2).unflatten(2, (height, width))
    return torch.cat([found[index] for index in wanted], dim=1)


def check_blocks(blocks: Sequence[int], depth: int) -> list[int]:
    """Indices of blocks counted from 0.

    Raises:
        ValueError: See :func:`block_maps`.
    """
    if not blocks or not all(-depth <= block < depth for block in blocks):
        raise ValueError(f'blocks={list(blocks)} must be indices from {-depth} to {depth - 1}, at least one')
    return [block % depth for block in blocks]


def check_kinds(backbone: QueryViT, kinds: Collection[str]) -> None:
    """Checks that a backbone has all kinds of features.

    Raises:
        ValueError: See :func:`dense_features`.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f'kind of features {kind!r}: must be one of {", ".join(KINDS)}')
    if 'attention' in kinds and backbone.cls_token is None:
        raise ValueError('attention of [CLS]: the backbone has no class token')


def _of_attention(backbone: QueryViT, x: Tensor, layout: TokenLayout, kinds: Collection[str]) -> dict[str, Tensor]:
    """Keys and attention from the input (B, S, D) of the last block."""
    block, first = backbone.blocks[-1], backbone.num_prefix_tokens
    queries, keys = block.attn.project(block.norm1(x))[:2]
    found = {'keys': keys.transpose(1, 2).flatten(2)[:, first:]}
    if 'attention' in kinds:  # only the row of [CLS], not (B, H, S, S)
        row = layout.rotated(queries)[:, :, :1] * block.attn.scale
        found['attention'] = (row @ layout.rotated(keys).transpose(-2, -1)).softmax(dim=-1)[:, :, 0, first:]
    return found
