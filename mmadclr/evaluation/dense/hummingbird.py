"""In-context segmentation: query patches take the class shares of their nearest training patches.

Balazevic et al., *Towards in-context scene understanding*, NeurIPS 2023, as evaluated by vpariza/open-hummingbird-eval 2.0.0
(``hbird/hbird_eval.py``, cited below for specific choices). The search is exact; the published table used an
approximate index.

Shape legend: N images, P patches of an image (h x w), D channels, C classes, M patches of the bank, Q queries, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmadclr.evaluation.dense.matching import How, match_clusters, matched_counts
from mmadclr.evaluation.dense.search import nearest_patches
from mmadclr.evaluation.dense.segmentation_scores import (
    VOID,
    PixelCounts,
    SegmentationResult,
    check_masks,
    count_pixels,
    mean_iou,
)
from mmadclr.evaluation.patches import patch_labels

NEIGHBORS, BETA = 30, 0.02
MAP_BYTES = 2**28
QUERIES = 65_536


def patch_shares(
    masks: Tensor, grid: tuple[int, int], num_classes: int, void_as: int | None = 0, ignore: Collection[int] = (VOID,)
) -> Tensor:
    """(N, P, C) fraction of every class among the pixels of every patch of label maps (N, H, W).

    Args:
        masks: Of the training images, after the same crop.
        grid: h and w; H and W must be multiples of them.
        num_classes: C.
        void_as: Class assigned to ignored pixels: 0 in the published code, background for VOC but road for Cityscapes.
            None: fractions of the other pixels; a patch without any has zero shares and does not contribute.
        ignore: Labels that are not classes.

    Raises:
        ValueError: Sides that are not multiples of the grid, unknown labels.
    """
    check_sides(masks.shape[1:], grid)
    check_masks(masks, num_classes, ignore, 'masks of the bank')
    if void_as is not None and not 0 <= void_as < num_classes:
        raise ValueError(f'void_as={void_as} must be one of the {num_classes} classes, or None')
    ignored = torch.isin(masks, torch.tensor(sorted(ignore), dtype=torch.int64, device=masks.device))
    labels = masks.long().masked_fill(ignored, -1 if void_as is None else void_as)
    return patch_labels(labels, grid, num_classes)[0]


def check_sides(size: Sequence[int], grid: tuple[int, int]) -> None:
    """Checks that patches of a grid have an integer number of pixels.

    Raises:
        ValueError: They do not.
    """
    if size[0] % grid[0] or size[1] % grid[1]:
        raise ValueError(
            f'masks of {size[0]} x {size[1]} pixels must be multiples of the grid {grid[0]} x {grid[1]} on both sides'
        )


def patches_per_image(memory_size: int, num_images: int, epochs: int = 1) -> int:
    """Number of patches per image and epoch in a bank of ``memory_size``: at least one, remainders are not distributed.

    Source: ``hbird_eval.py``. The bank is smaller than ``memory_size`` if that is not a multiple of images and epochs.
    """
    return max(1, memory_size // (num_images * epochs))


def sample_patches(shares: Tensor, number: int, draw: Tensor) -> Tensor:
    """(N, n) patches of every image that a bounded bank uses, rare classes first; n is ``number``, at most P.

    The score of a patch is its random draw times the sum, over its classes, of the number of the image's patches containing
    the class; the smallest scores are selected. Source: ``hbird_eval.py``, where patches without any class (possible only
    with ``void_as=None``) come last.

    Args:
        shares: (N, P, C) of :func:`patch_shares`.
        number: See :func:`patches_per_image`.
        draw: (N, P) uniform in [0, 1), such as ``torch.rand(N, P, generator=generator)``.

    Raises:
        ValueError: Draws of another shape.
    """
    if draw.shape != shares.shape[:2]:
        raise ValueError(f'draws {tuple(draw.shape)} for patches {tuple(shares.shape[:2])}: must have the same shape')
    contains = (shares > 0).to(draw.dtype)
    scores = (contains * contains.sum(dim=1, keepdim=True)).sum(dim=2) * draw
    scores = scores.masked_fill(contains.sum(dim=2) == 0, torch.inf)
    return scores.argsort(dim=1, stable=True)[:, :number]


def take_patches(rows: Tensor, chosen: Tensor) -> Tensor:
    """(N n, ...) of (N, P, ...): the chosen (N, n) patches of every image, in image order."""
    return rows[torch.arange(len(rows), device=rows.device)[:, None], chosen.to(rows.device)].flatten(0, 1)


def propagate_shares(bank: Tensor, bank_shares: Tensor, queries: Tensor, k: int = NEIGHBORS, beta: float = BETA) -> Tensor:
    """(Q, C) class shares of queries: mean over the k nearest bank patches, weighted by softmax of cosine / beta.

    Exact, on the device of the bank, in blocks. Norms are irrelevant. Ties go to the first patches.

    Args:
        bank: (M, D).
        bank_shares: (M, C).
        queries: (Q, D).
        k: Number of neighbors.
        beta: Temperature.

    Raises:
        ValueError: Fewer than k bank patches, different numbers of patches and shares, features that are zero or not finite,
            or a temperature that is not positive.
    """
    if len(bank) != len(bank_shares):
        raise ValueError(f'{len(bank)} patches in the bank with shares for {len(bank_shares)}: must be the same')
    if not beta > 0:
        raise ValueError(f'beta={beta} must be above 0')
    found = []
    for some in queries.split(QUERIES):
        cosines, rows = nearest_patches(bank, some.to(bank.device), k)
        weights = (cosines / beta).softmax(dim=1)
        # One neighbor at a time: (Q, k, C) would take k times the memory of the result.
        shares = weights.new_zeros(len(rows), bank_shares.shape[1])
        for weight, row in zip(weights.T, rows.T, strict=True):
            shares += weight[:, None] * bank_shares[row.to(bank_shares.device)].to(weight)
        found.append(shares.float())
    return torch.cat(found) if found else bank_shares.new_zeros(0, bank_shares.shape[1]).float()


def label_maps(shares: Tensor, grid: tuple[int, int], size: Sequence[int]) -> Tensor:
    """(N, H, W) class of every pixel: argmax of bilinearly upsampled shares or scores (N, P, C)."""
    at_a_time = max(1, MAP_BYTES // (4 * shares.shape[2] * size[0] * size[1]))
    maps = (some.transpose(1, 2).unflatten(2, grid) for some in shares.split(at_a_time))
    return torch.cat([F.interpolate(some, size=size, mode='bilinear').argmax(dim=1) for some in maps])


def check_images(features: Tensor, masks: Tensor, grid: tuple[int, int]) -> None:
    """Checks that features (N, P, D) and label maps (N, H, W) belong to the same images.

    Raises:
        ValueError: They do not, or the grid differs.
    """
    if features.ndim != 3 or masks.ndim != 3 or len(features) != len(masks) or not len(features):
        shapes = f'features {tuple(features.shape)} and masks {tuple(masks.shape)}'
        raise ValueError(f'{shapes} must be (N, P, D) and (N, H, W) of the same images, at least one')
    if features.shape[1] != grid[0] * grid[1]:
        raise ValueError(f'{features.shape[1]} patches per image must match the grid {grid[0]} x {grid[1]}')


def evaluate_hummingbird(
    bank: Tensor,
    bank_shares: Tensor,
    features: Tensor,
    masks: Tensor,
    grid: tuple[int, int],
    *,
    k: int = NEIGHBORS,
    beta: float = BETA,
    ignore: Collection[int] = (VOID,),
    matching: How | None = 'hungarian',
) -> SegmentationResult:
    """mIoU over all classes of label maps predicted by retrieval.

    Metrics: ``hummingbird{k}_mIoU`` as published and ``hummingbird{k}_mIoU_identity``. The published metric matches
    predicted to true classes although both are known, which hides swapped classes; hence both are reported.

    Args:
        bank, bank_shares: (M, D) and (M, C) of the training images.
        features: (N, P, D) of the test images.
        masks: (N, H, W), at the scoring resolution: that of the network input in the published code.
        grid: h and w.
        k, beta: See :func:`propagate_shares`.
        ignore: Labels excluded from scoring: 255; 0 for ADE20K, whose class 0 still counts as one with IoU 0.
        matching: ``'hungarian'`` by IoU as published, or None.

    Raises:
        ValueError: See ``propagate_shares`` and ``count_pixels``; features or masks of different images or grids.
        ImportError: Matching without scipy.
    """
    check_images(features, masks, grid)
    classes = bank_shares.shape[1]
    check_masks(masks, classes, ignore)
    shares = propagate_shares(bank, bank_shares, features.flatten(0, 1), k, beta).unflatten(0, features.shape[:2])
    counts = count_pixels(label_maps(shares, grid, masks.shape[1:]), masks.to(shares.device), classes, ignore=ignore)
    return matched_result(f'hummingbird{k}', counts, matching, (bank_shares > 0).any(dim=0))


def matched_result(name: str, counts: PixelCounts, matching: How | None, learned: Tensor) -> SegmentationResult:
    """Metrics with and without matching, from pixel counts and whether each class (C,) occurs in training."""
    confusion = counts.confusion.cpu()
    mapping = match_clusters(confusion, matching)
    metrics = {
        f'{name}_mIoU': 100 * mean_iou(matched_counts(confusion, mapping)),
        f'{name}_mIoU_identity': 100 * mean_iou(confusion),
    }
    unlearned = ((confusion.sum(dim=1) > 0) & ~learned.cpu()).nonzero().flatten().tolist()
    return SegmentationResult(metrics, counts, mapping, tuple(unlearned))
