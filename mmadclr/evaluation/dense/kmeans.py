"""k-means as in faiss, on the device of the points: same subsets, initial centers and splits for the same seed.

Source: facebookresearch/faiss, ``faiss/Clustering.cpp`` and ``faiss/utils/random.cpp``. Distances are in double precision,
so centers agree with faiss up to its single precision.

Shape legend: n points, D channels, K clusters, R redos.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

STEPS, REDOS = 100, 5
POINTS_PER_CENTER = 256
REDO_STEP = 15_486_557
SPLIT_SEED = 1234
SPLIT = 1 / 1024
DISTANCES = 2**25


class Clusters(NamedTuple):
    """``centers``: (K, D), float64. ``objective``: sum of squared distances of the last assignment. ``steps``: performed."""

    centers: Tensor
    objective: float
    steps: int


def first_of_permutation(number: int, total: int, seed: int) -> Tensor:
    """(number,) first elements of faiss's ``rand_perm(total, seed)``, without computing the rest."""
    draws = np.random.RandomState(seed % 2**32).randint(0, 2**32, size=min(number, total - 1), dtype=np.uint32).tolist()
    moved: dict[int, int] = {}
    for place, draw in enumerate(draws):
        other = place + draw % (total - place)
        moved[place], moved[other] = moved.get(other, other), moved.get(place, place)
    return torch.tensor([moved.get(place, place) for place in range(min(number, total))])


def training_subset(total: int, k: int, seed: int, points_per_center: int = POINTS_PER_CENTER) -> Tensor:
    """(n,) points used to compute centers: all, or ``points_per_center`` per cluster."""
    limit = k * points_per_center
    return torch.arange(total) if total <= limit else first_of_permutation(limit, total, seed)


def initial_points(total: int, k: int, seed: int, redos: int = REDOS) -> Tensor:
    """(R, K) points of the subset that are the initial centers of every redo."""
    return torch.stack([first_of_permutation(k, total, seed + 1 + redo * REDO_STEP) for redo in range(redos)])


def nearest_centers(points: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) nearest center of every point (ties go to the first), and the squared distances (n,)."""
    lengths, found = centers.square().sum(dim=1), []
    for some in points.split(max(1, DISTANCES // len(centers))):
        distances, numbers = (lengths - 2 * some @ centers.T).min(dim=1)
        found.append((numbers, (distances + some.square().sum(dim=1)).clamp(min=0)))
    numbers, distances = zip(*found, strict=True)
    return torch.cat(numbers), torch.cat(distances)


def lloyd(points: Tensor, start: Tensor, steps: int = STEPS) -> Clusters:
    """Lloyd's iterations from initial centers (K, D); stops early on convergence.

    Args:
        points: (n, D), float64.
        start: (K, D).
        steps: Maximum number.
    """
    centers, before, objective, done = start.clone(), None, float('inf'), 0
    for done in range(1, steps + 1):  # noqa: B007
        numbers, distances = nearest_centers(points, centers)
        objective = distances.sum().item()
        if before is not None and torch.equal(numbers, before):
            break
        before = numbers
        sizes = numbers.bincount(minlength=len(centers))
        sums = torch.zeros_like(centers).index_add_(0, numbers, points)
        centers = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centers)
        if (sizes == 0).any() and len(points) > len(centers):
            centers, before = split_clusters(centers, sizes, len(points)), None
    return Clusters(centers, objective, done)


def split_clusters(centers: Tensor, sizes: Tensor, total: int) -> Tensor:
    """Splits a cluster, drawn by size, for each empty one; both centers are perturbed by 1/1024 in opposite directions."""
    centers, counts = centers.clone(), sizes.double().tolist()
    random, k = np.random.RandomState(SPLIT_SEED), len(centers)
    signs = 1 + SPLIT * (1 - 2 * (torch.arange(centers.shape[1], device=centers.device) % 2)).to(centers)
    for empty in (sizes == 0).nonzero().flatten().tolist():
        other = 0
        while True:
            share = (counts[other] - 1) / (total - k)
            if random.randint(0, 2**32, dtype=np.uint32) / (2**32 - 1) < share:
                break
            other = (other + 1) % k
        centers[empty], centers[other] = centers[other] * signs, centers[other] * (2 - signs)
        counts[empty] = counts[other] / 2
        counts[other] -= counts[empty]
    return centers


def kmeans(
    points: Tensor,
    k: int,
    seed: int = 0,
    *,
    steps: int = STEPS,
    redos: int = REDOS,
    points_per_center: int = POINTS_PER_CENTER,
    subset: Tensor | None = None,
    initial: Tensor | None = None,
) -> Clusters:
    """The best of several runs by objective, equivalent to ``faiss.Kmeans(D, k, niter, nredo, seed)``.

    Args:
        points: (n, D).
        k: Number of clusters.
        seed: For the subset and the initial centers.
        steps, redos: faiss's ``niter`` and ``nredo``.
        points_per_center: Maximum number of points used per cluster.
        subset: (n',) points to use instead of those drawn from the seed.
        initial: (R, K) points of the subset as initial centers, instead of those drawn from the seed.

    Raises:
        ValueError: More clusters than points, or points that are not finite.
    """
    if not 1 <= k <= len(points):
        raise ValueError(f'k={k} clusters of {len(points)} patches: k must be between 1 and the number of patches')
    if not points.isfinite().all():
        raise ValueError('patches to cluster contain values that are not finite')
    subset = training_subset(len(points), k, seed, points_per_center) if subset is None else subset.long()
    chosen = points[subset.to(points.device)].double()
    initial = initial_points(len(chosen), k, seed, redos) if initial is None else initial.long()
    runs = [lloyd(chosen, chosen[start.to(points.device)], steps) for start in initial]
    return min(runs, key=lambda run: run.objective)  # ties go to the first run
