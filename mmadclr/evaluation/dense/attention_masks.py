"""[CLS] attention as a segmentation mask, scored against the objects of an image (Jaccard index).

Caron et al., *Emerging properties in self-supervised vision transformers*, ICCV 2021, section 4.2.2, was published without
scoring code; we follow ``src/evaluate_attn_maps.py`` of vpariza/NeCo, which has Leopart's.

Shape legend: N images, P patches of an image (h x w), p pixels per patch side, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from mmadclr.evaluation.dense.hummingbird import check_sides
from mmadclr.evaluation.dense.segmentation_scores import VOID

MASS = 0.6
BLUR, SIGMA = 7, 0.6
SMALLEST = 3  # minimum patches of a component
Objects = Literal['published', 'labels']


class AttentionJaccard(NamedTuple):
    """``metrics``: percent. ``best_head``: (N,) mean over the objects of an image of the best head's IoU, NaN without
    objects. ``merged``: (N,) IoU of all heads combined with all labeled pixels. ``without_objects``: number of such
    images.
    """

    metrics: dict[str, float]
    best_head: Tensor
    merged: Tensor
    without_objects: int


def mass_mask(attention: Tensor, mass: float = MASS) -> Tensor:
    """Mask of the strongest patches that together hold a given fraction of the attention (..., P); ties go to later patches.

    Raises:
        ValueError: ``mass`` is not between 0 and 1, or attention is negative, not finite, or zero everywhere.
    """
    if not 0 < mass < 1:
        raise ValueError(f'mass={mass} must be between 0 and 1')
    if not attention.isfinite().all() or (attention < 0).any() or (attention.sum(dim=-1) <= 0).any():
        raise ValueError('attention must be finite, non-negative, and positive somewhere in every map')
    values, order = attention.double().sort(dim=-1, stable=True)
    kept = (values / values.sum(dim=-1, keepdim=True)).cumsum(dim=-1) > 1 - mass
    return torch.zeros_like(kept).scatter_(-1, order, kept)


def merged_mask(attention: Tensor, grid: tuple[int, int], mass: float = MASS) -> Tensor:
    """(h, w) mask of the blurred mean over heads (heads, P), without components of fewer than 3 patches (8-connected).

    Raises:
        ValueError: The grid is too small for the reflection padding of the blur; see :func:`mass_mask`.
    """
    if min(grid) <= BLUR // 2:
        raise ValueError(
            f'a grid of {grid[0]} x {grid[1]} patches is too small to blur: must be at least {BLUR // 2 + 1} on both sides'
        )
    mean = attention.double().mean(dim=0).view(1, 1, *grid)
    mask = mass_mask(gaussian_blur(mean, [BLUR, BLUR], [SIGMA, SIGMA]).flatten(), mass).view(grid)
    count, numbers, sizes, _ = cv2.connectedComponentsWithStats(mask.cpu().numpy().astype(np.uint8), connectivity=8)
    kept = [number for number in range(1, count) if sizes[number, cv2.CC_STAT_AREA] >= SMALLEST]
    return torch.from_numpy(np.isin(numbers, kept)).to(attention.device)


def object_labels(mask: Tensor, objects: Objects = 'published') -> list[int]:
    """Labels in a map (H, W) that are objects.

    ``'published'``: all except the smallest and the largest one present, which are assumed to be 0 and 255. Without void
    pixels this drops the highest label, without background the lowest. ``'labels'``: all except 0 and 255.

    Raises:
        ValueError: Another value of ``objects``.
    """
    found = mask.unique().tolist()
    if objects == 'published':
        return found[1:-1]
    if objects == 'labels':
        return [label for label in found if label not in (0, VOID)]
    raise ValueError(f"objects={objects!r}: must be 'published' or 'labels'")


def jaccard(masks: Tensor, target: Tensor) -> Tensor:
    """(...) IoU of boolean masks (..., H, W) with a target (H, W); 0 if both are empty."""
    hits, union = (masks & target).flatten(-2).sum(dim=-1), (masks | target).flatten(-2).sum(dim=-1)
    return hits.double() / union.clamp(min=1)


def attention_jaccard(
    attention: Tensor,
    masks: Tensor,
    grid: tuple[int, int],
    *,
    mass: float = MASS,
    objects: Objects = 'published',
    without_objects: Literal['zero', 'skip'] = 'zero',
) -> AttentionJaccard:
    """Metrics ``attention_jaccard_best_head`` and ``attention_jaccard_merged``, means over images.

    Args:
        attention: (N, heads, P) of [CLS] to the patches, without [CLS] itself.
        masks: (N, H, W) labels; sides are multiples of the grid. Void pixels belong to no object, but count as labeled.
        grid: h and w.
        mass: Fraction of the attention in a mask.
        objects: See :func:`object_labels`.
        without_objects: ``'zero'``: images without an object count 0 in ``best_head``, as published; ``'skip'``: they are
            excluded. In ``merged`` they count with their nonzero pixels, or as 0 if there are none.

    Raises:
        ValueError: Inconsistent shapes, attention without mass, or no image with an object when they are excluded.
    """
    if attention.ndim != 3 or masks.ndim != 3 or len(attention) != len(masks) or not len(masks):
        shapes = f'attention {tuple(attention.shape)} and masks {tuple(masks.shape)}'
        raise ValueError(f'{shapes} must be (N, heads, P) and (N, H, W) of the same images, at least one')
    if attention.shape[2] != grid[0] * grid[1]:
        raise ValueError(
            f'attention to {attention.shape[2]} patches must be that of a grid of {grid[0]} x {grid[1]}, without [CLS]'
        )
    if without_objects not in ('zero', 'skip'):
        raise ValueError(f"without_objects={without_objects!r}: must be 'zero' or 'skip'")
    check_sides(masks.shape[1:], grid)
    pairs = list(zip(attention, masks.to(attention.device), strict=True))
    best = torch.stack([_best_head(some, mask, grid, mass, objects) for some, mask in pairs])
    merged = torch.stack([jaccard(_enlarged(merged_mask(some, grid, mass), mask.shape), mask != 0) for some, mask in pairs])
    empty = best.isnan()
    if without_objects == 'skip' and empty.all():
        raise ValueError('no image has an object: the mean over objects is undefined')
    mean = best.nan_to_num(0.0).mean() if without_objects == 'zero' else best[~empty].mean()
    metrics = {'attention_jaccard_best_head': 100 * mean.item(), 'attention_jaccard_merged': 100 * merged.mean().item()}
    return AttentionJaccard(metrics, best, merged, int(empty.sum()))


def _enlarged(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Upsamples patch masks (..., h, w) to pixels."""
    rows, columns = size[0] // masks.shape[-2], size[1] // masks.shape[-1]
    return masks.repeat_interleave(rows, dim=-2).repeat_interleave(columns, dim=-1)


def _best_head(attention: Tensor, mask: Tensor, grid: tuple[int, int], mass: float, objects: Objects) -> Tensor:
    heads = _enlarged(mass_mask(attention, mass).unflatten(1, grid), mask.shape)
    found = [jaccard(heads, mask == label).max() for label in object_labels(mask, objects)]
    return torch.stack(found).mean() if found else attention.new_full((), torch.nan, dtype=torch.float64)
