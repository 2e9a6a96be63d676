"""Attention of the last block: from [CLS] and from query crops to the patches.

Shape legend: B images, N patches (h x w), Q query crops of T tokens, H heads, S tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmadclr.models.backbones.query_block import TokenLayout
from mmadclr.models.backbones.query_vit import QueryViT


@torch.no_grad()
def last_input(model: QueryViT, images: Tensor, crops: Tensor | None = None) -> tuple[Tensor, TokenLayout]:
    """Normed tokens (B, S, D) that the last attention layer reads, and their layout; arguments as of ``QueryViT``."""
    x, layout = model.embed(images, crops)
    for index, block in enumerate(model.blocks[:-1]):
        x = block(x, layout.of_block(index))
    return model.blocks[-1].norm1(x), layout.of_block(-1)


@torch.no_grad()
def attention_rows(model: QueryViT, images: Tensor, crops: Tensor | None = None) -> Tensor:
    """(B, H, 1 + Q*T, N): attention from [CLS], if there is one, and query tokens to the patches, heads apart.

    Only these rows are computed, so that images may be large. A row sums to 1 over all that it may attend to: the patches,
    [CLS], registers, and query tokens where the backbone lets them.
    """
    x, layout = last_input(model, images, crops)
    attention = model.blocks[-1].attn
    q, k = map(layout.rotated, attention.project(x)[:2])
    first = 0 if model.cls_token is None else 1
    rows = torch.cat((torch.arange(first), torch.arange(layout.num_image, x.shape[1]))).to(x.device)
    scores = (q[:, :, rows] * attention.scale) @ k.transpose(-2, -1)
    weights = scores.masked_fill(~layout.mask(x.shape[1], x.device)[rows], float('-inf')).softmax(dim=-1)
    return weights[..., model.num_prefix_tokens : layout.num_image]


def cls_attention(model: QueryViT, images: Tensor, name: str = 'the backbone') -> Tensor:
    """(B, H, h, w): attention of [CLS] to the patches, heads apart.

    Raises:
        ValueError: There is no class token; the message starts with ``name``.
    """
    if model.cls_token is None:
        raise ValueError(f'{name} has no class token, so there is no attention of [CLS] to show: leave out attention')
    return attention_rows(model, images)[:, :, 0].unflatten(2, patch_grid(model, images))


def query_attention(model: QueryViT, images: Tensor, crops: Tensor) -> Tensor:
    """(B, Q, h, w): attention of query crops (B, Q, 3, q, q), mean over heads and over the tokens of a crop."""
    first = 0 if model.cls_token is None else 1
    rows = attention_rows(model, images, crops).mean(dim=1)[:, first:]
    return rows.unflatten(1, (crops.shape[1], -1)).mean(dim=2).unflatten(2, patch_grid(model, images))


def attention_maps(model: QueryViT, images: Tensor, crops: Tensor) -> Tensor:
    """(B, 1 + Q, H, W) in pixels: attention of [CLS] and of each query crop, mean over heads and tokens.

    Raises:
        ValueError: There is no class token.
    """
    cls = cls_attention(model, images).mean(dim=1, keepdim=True)
    maps = torch.cat((cls, query_attention(model, images, crops)), dim=1)
    return F.interpolate(maps, size=images.shape[-2:], mode='bilinear')


def last_keys(model: QueryViT, images: Tensor) -> Tensor:
    """(B, h, w, D): keys of the patches in the last attention layer, heads concatenated, before rotation."""
    x, layout = last_input(model, images)
    keys = model.blocks[-1].attn.project(x)[1].transpose(1, 2).flatten(2)
    return keys[:, model.num_prefix_tokens : layout.num_image].unflatten(1, patch_grid(model, images))


def patch_grid(model: QueryViT, images: Tensor) -> tuple[int, int]:
    """h and w."""
    return images.shape[-2] // model.patch_size, images.shape[-1] // model.patch_size
