"""Unsupervised single-object discovery: LOST, TokenCut, and the attention baseline; and CorLoc.

Siméoni et al., *Localizing objects with self-supervised transformers and no labels*, BMVC 2021 (valeoai/LOST,
``object_discovery.py``); Wang et al., *TokenCut*, 2022 (YangtaoWANG95/TokenCut, ``object_discovery.py``).

Shape legend: P patches of an image (h x w), D channels. Boxes are left, top, right, bottom; right and bottom are exclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmadclr.evaluation.dense.attention_masks import MASS, mass_mask
from mmadclr.evaluation.dense.search import check_features

EXPANSION = 100
TAU, EPS = 0.2, 1e-5
THRESHOLD = 0.5
EQUAL = 1e-6

Box = tuple[int, int, int, int]


class LostBox(NamedTuple):
    """``box``: in patches. ``seed``: patch. ``degrees``: (P,) number of similar patches. ``expansion``: (P,) sums of
    similarities to the expanded seed, whose positive component is the box."""

    box: Box
    seed: int
    degrees: Tensor
    expansion: Tensor


class TokenCutBox(NamedTuple):
    """``box``: in patches. ``seed``: patch. ``mask``: (h, w) of the object. ``eigenvector``: (h, w), larger in the
    foreground."""

    box: Box
    seed: int
    mask: Tensor
    eigenvector: Tensor


class CorLoc(NamedTuple):
    """``value``: fraction of images with a correct box. ``hits``: by image, None without annotation. ``left_out``: number of
    such images.
    """

    value: float
    hits: list[bool | None]
    left_out: int


def components(mask: np.ndarray) -> np.ndarray:
    """(h, w) index of the 4-connected component of a boolean map, 0 outside; numbered from 1 in the order of their first
    patches.
    """
    _, numbers = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    found, first = np.unique(numbers, return_index=True)
    order = np.argsort(np.where(found == 0, -1, first))
    renumbered = np.empty(len(found), int)
    renumbered[order] = np.arange(len(found)) + (0 if (found == 0).any() else 1)
    return renumbered[np.searchsorted(found, numbers)]


def box_of(mask: np.ndarray) -> Box:
    """Bounding box of a non-empty boolean map."""
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def component_at(mask: np.ndarray, patch: int) -> np.ndarray:
    """(h, w) the component of a boolean map that contains a patch."""
    numbers = components(mask)
    return numbers == numbers.flat[patch]


def _checked(keys: Tensor, grid: tuple[int, int], directed: bool) -> Tensor:
    if keys.ndim != 2 or len(keys) != grid[0] * grid[1]:
        raise ValueError(f'features {tuple(keys.shape)} must be (P, D) on a grid of {grid[0]} x {grid[1]}')
    check_features(keys, 'feature', directed)
    return keys.double()


def lost_box(keys: Tensor, grid: tuple[int, int], k: int = EXPANSION) -> LostBox:
    """LOST: the patch with the fewest similar patches, expanded to patches similar to it.

    Args:
        keys: (P, D) keys of the last attention layer, heads concatenated, bias included, without [CLS].
        grid: h and w.
        k: Number of lowest-degree patches used to expand the seed. Ties go to the first patches; the published sort is
            not stable.

    Raises:
        ValueError: Features of a different grid, or not finite; k below 1; a seed with no similar patch, not even itself.
    """
    if k < 1:
        raise ValueError(f'k={k} must be at least 1')
    keys = _checked(keys, grid, directed=True)
    similar = keys @ keys.T
    positive = (similar > 0).fill_diagonal_(False)
    degrees = positive.sum(dim=1)
    order = degrees.argsort(stable=True)
    seed, candidates = order[0], order[:k]
    expansion = similar[candidates[similar[seed, candidates] > 0]].sum(dim=0)
    mask = (expansion > 0).view(grid).cpu().numpy()
    if not mask.flat[int(seed)]:
        raise ValueError('the LOST seed is in the background: use the keys of an attention layer')
    return LostBox(box_of(component_at(mask, int(seed))), int(seed), degrees, expansion)


def tokencut_box(
    keys: Tensor, grid: tuple[int, int], tau: float = TAU, eps: float = EPS, binary: bool = True
) -> TokenCutBox:
    """TokenCut: normalized cut of the graph of similar patches.

    The foreground contains the patch with the largest absolute entry of the second eigenvector; ties up to rounding go to
    the first patch.

    Args:
        keys: See :func:`lost_box`.
        grid: h and w.
        tau: Cosine threshold above which patches are connected.
        eps: Weight of the other pairs.
        binary: Connected pairs have weight 1; otherwise their cosine.

    Raises:
        ValueError: Features of a different grid, zero or not finite; fewer than two patches.
    """
    keys = F.normalize(_checked(keys, grid, directed=True), dim=1)
    if len(keys) < 2:
        raise ValueError('TokenCut needs at least two patches')
    cosines = keys @ keys.T
    weights = torch.where(cosines > tau, 1.0, eps) if binary else torch.where(cosines < tau, eps, cosines)
    scale = weights.sum(dim=1).rsqrt()
    # (D - W) v = lambda D v is the symmetric problem of D**-1/2 (D - W) D**-1/2 in D**1/2 v.
    symmetric = torch.eye(len(keys), dtype=keys.dtype, device=keys.device) - scale[:, None] * weights * scale
    vector = torch.linalg.eigh(symmetric).eigenvectors[:, 1] * scale
    sizes = vector.abs()
    seed = int((sizes >= sizes.max() * (1 - EQUAL)).nonzero()[0])
    foreground = vector > vector.mean()
    if not foreground[seed]:
        vector, foreground = -vector, ~foreground
    mask = component_at(foreground.view(grid).cpu().numpy(), seed)
    return TokenCutBox(box_of(mask), seed, torch.from_numpy(mask), vector.view(grid))


def attention_box(
    attention: Tensor,
    grid: tuple[int, int],
    head: int = 4,
    mass: float = MASS,
    choose_among: Literal['published', 'all'] = 'published',
) -> Box:
    """DINO-seg, LOST's baseline: the largest component of one head's [CLS] attention mask, in patches.

    Args:
        attention: (heads, P), without [CLS].
        grid: h and w.
        head: Index of the head.
        mass: See ``attention_masks.mass_mask``.
        choose_among: ``'published'`` ignores the last component, and uses the background if there is only one.

    Raises:
        ValueError: No such head, attention of a different grid; see ``mass_mask``.
    """
    if attention.ndim != 2 or attention.shape[1] != grid[0] * grid[1] or not 0 <= head < len(attention):
        raise ValueError(
            f'attention {tuple(attention.shape)} must have head {head} on a grid of {grid[0]} x {grid[1]}, without [CLS]'
        )
    if choose_among not in ('published', 'all'):
        raise ValueError(f"choose_among={choose_among!r}: must be 'published' or 'all'")
    numbers = components(mass_mask(attention[head], mass).view(grid).cpu().numpy())
    sizes = np.bincount(numbers.flatten())[: -1 if choose_among == 'published' else None]
    largest = int(sizes[1:].argmax()) + 1 if len(sizes) > 1 else 0
    chosen = numbers == largest
    if not chosen.any():
        raise ValueError('the mask covers all patches, so there is no background to choose; use choose_among="all"')
    return box_of(chosen)


def scale_box(box: Box, patch_size: int, size: tuple[int, int] | None = None) -> Box:
    """Converts a box from patches to pixels, clipped at the right and bottom to an image (H, W) before padding."""
    left, top, right, bottom = (side * patch_size for side in box)
    return (left, top, right, bottom) if size is None else (left, top, min(right, size[1]), min(bottom, size[0]))


def voc_boxes(boxes: Tensor, difficult: Tensor, truncated: Tensor, keep_hard: bool = True) -> Tensor:
    """(n, 4) boxes of a VOC annotation (1-based, last pixel included) in our convention.

    Difficult and truncated objects are kept, as published, unless ``keep_hard`` is False.
    """
    shifted = boxes.reshape(-1, 4) - torch.tensor([1, 1, 0, 0])
    return shifted if keep_hard else shifted[~(difficult.bool() | truncated.bool())]


def box_ious(box: Sequence[int], boxes: Tensor) -> Tensor:
    """(n,) IoU of a box with boxes (n, 4), float64.

    Raises:
        ValueError: A box has no area.
    """
    both = torch.cat((torch.tensor([list(box)]), boxes.reshape(-1, 4).cpu())).double()
    areas = (both[:, 2] - both[:, 0]) * (both[:, 3] - both[:, 1])
    if (both[:, 2:] <= both[:, :2]).any():
        raise ValueError(f'boxes without area: {both[(both[:, 2:] <= both[:, :2]).any(dim=1)][0].tolist()}')
    sides = (torch.minimum(both[0, 2:], both[1:, 2:]) - torch.maximum(both[0, :2], both[1:, :2])).clamp(min=0)
    hits = sides[:, 0] * sides[:, 1]
    return hits / (areas[0] + areas[1:] - hits)


def corloc(boxes: Sequence[Sequence[int]], annotated: Sequence[Tensor], threshold: float = THRESHOLD) -> CorLoc:
    """Fraction of images whose box has an IoU of at least ``threshold`` with any annotated one (n, 4).

    Images without an annotated box are excluded and counted; the published code fails on them, or skips them when hard
    objects are excluded.

    Raises:
        ValueError: Different numbers of images, or no image with an annotated box.
    """
    if len(boxes) != len(annotated):
        raise ValueError(f'{len(boxes)} boxes for {len(annotated)} images: must be the same')
    hits = [
        bool((box_ious(box, others) >= threshold).any()) if len(others) else None
        for box, others in zip(boxes, annotated, strict=True)
    ]
    usable = [hit for hit in hits if hit is not None]
    if not usable:
        raise ValueError(f'none of the {len(hits)} images has an annotated box')
    return CorLoc(sum(usable) / len(usable), hits, len(hits) - len(usable))
