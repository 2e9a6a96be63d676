"""Measures of image features that need no labels, and leave-one-out k-NN; each with one value per image where possible.

Shape legend: N images, n patches of an image, D channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmadclr.evaluation.dense.bootstrap import Statistic
from mmadclr.evaluation.knn import class_votes, nearest_neighbors

ALIGNMENT_POWER, UNIFORMITY_T = 2, 2  # the defaults of Wang and Isola
POOL_ROWS = 4096
NEIGHBORS = 5


def retrieval_hits(first: Tensor, second: Tensor) -> Tensor:
    """Whether the other view of an image is the nearest of all images, as the mean of both directions.

    Args:
        first, second: (N, D) features of two views of the same images.

    Returns:
        (N,) 0, 0.5 or 1.
    """
    views = [F.normalize(view.float(), dim=1) for view in (first, second)]
    own = torch.arange(len(first), device=first.device)
    found = [nearest_neighbors(views[1 - query], views[query], 1)[1][:, 0] == own for query in (0, 1)]
    return (found[0].float() + found[1].float()) / 2


def alignment_distances(first: Tensor, second: Tensor) -> Tensor:
    """(N,) squared distances between the normalized features (N, D) of two views; 0 if equal, 4 if opposite.

    Their mean is the alignment loss of Wang and Isola, *Understanding contrastive representation learning through alignment
    and uniformity on the hypersphere*, ICML 2020, section 4.1, with alpha = 2.
    """
    first, second = (F.normalize(view.float(), dim=1) for view in (first, second))
    return (first - second).norm(dim=1) ** ALIGNMENT_POWER


def uniformity_score(features: Tensor) -> Statistic:
    """The uniformity of rows of features (N, D): log of the mean of ``exp(-2 d^2)`` over pairs of images, d the distance of
    their normalized features. 0 if all are equal; lower is more uniform.

    Wang and Isola, ICML 2020, section 4.1, with t = 2. Pairs of an image with itself, as in samples with repetitions, are
    left out. NaN if there is no pair.
    """
    kernel = _gaussian_kernel(features)

    def score(rows: Tensor) -> float:
        times = rows.bincount(minlength=len(kernel)).to(kernel)
        pairs = len(rows) ** 2 - times.square().sum()
        total = times @ (kernel @ times) - (times.square() * kernel.diag()).sum()
        return (total / pairs).log().item() if pairs > 0 else math.nan

    return score


def _gaussian_kernel(features: Tensor) -> Tensor:
    rows = F.normalize(features.double(), dim=1)
    lengths = rows.square().sum(dim=1)  # 1, or 0 for features that are zero
    squares = lengths[:, None] + lengths - 2 * (rows @ rows.T)
    return (-UNIFORMITY_T * squares.clamp(min=0)).exp()


def rank_score(features: Tensor) -> Statistic:
    """The effective rank of rows of features (N, D): :func:`mmadclr.evaluation.collapse.rank_me` in double precision.

    From the eigenvalues of the smaller of the two products of the matrix with itself, several times faster than from
    singular values. 1 if all features are zero.
    """
    features = features.double()

    def score(rows: Tensor) -> float:
        chosen = features[rows]
        product = chosen.T @ chosen if len(chosen) > chosen.shape[1] else chosen @ chosen.T
        values = torch.linalg.eigvalsh(product).clamp(min=0).sqrt()
        return torch.special.entr(values / values.sum()).sum().exp().item() if values.any() else 1.0

    return score


def neighbor_agreement(first: Tensor, second: Tensor, k: int = NEIGHBORS, pool_rows: int = POOL_ROWS) -> Tensor:
    """Share of the k nearest patches in other images that corresponding patches of two views have in common.

    Neighbors are patches of other images, not of the same one: otherwise features that contain only the position would
    agree perfectly. Ties are broken in opposite orders for the two views, so constant features do not agree.

    Args:
        first, second: (N, n, D) patches at corresponding places of two views.
        k: Number of neighbors; fewer if there are fewer patches in other images.
        pool_rows: The neighbors come from the patches ``first`` of evenly spaced images, about so many patches.

    Returns:
        (N,) means over the patches of an image, 0 to 1.

    Raises:
        ValueError: Fewer than 2 images.
    """
    count, each = first.shape[:2]
    if count < 2:
        raise ValueError(f'{count} image(s): neighbors in other images need at least 2')
    step = max(1, min(round(count * each / pool_rows), count // 2))
    images = torch.arange(count, device=first.device)[::step]
    pool, owners = _directions(first[images]), images.repeat_interleave(each)
    k = min(k, len(pool) - each)
    queries_of = torch.arange(count, device=first.device).repeat_interleave(each)
    forward = _others(pool, owners, _directions(first), queries_of, k, each)
    backward = _others(pool.flip(0), owners.flip(0), _directions(second), queries_of, k, each)
    common = (forward[:, :, None] == len(pool) - 1 - backward[:, None, :]).any(dim=2)
    return common.float().mean(dim=1).view(count, each).mean(dim=1)


def _others(pool: Tensor, owners: Tensor, queries: Tensor, queries_of: Tensor, k: int, each: int) -> Tensor:
    """Rows (M, k) of the nearest patches in the pool that belong to other images than the query."""
    nearest = nearest_neighbors(pool, queries, k + each)[1]
    own = owners[nearest] == queries_of[:, None]
    return nearest.gather(1, own.to(torch.uint8).sort(dim=1, stable=True).indices[:, :k])


def _directions(patches: Tensor) -> Tensor:
    return F.normalize(patches.flatten(0, 1).float(), dim=1)


def knn_hits(features: Tensor, labels: Tensor, k: int = 20, temperature: float = 0.07) -> Tensor:
    """(N,) whether the class of an image is found by its k nearest other images: leave-one-out k-NN.

    Votes are those of :func:`mmadclr.evaluation.knn.class_votes`; other than in DINO's protocol there is no separate
    training set.

    Args:
        features, labels: (N, D) and (N,).
        k: Number of neighbors; all others if there are fewer.
        temperature: Of the votes.

    Raises:
        ValueError: Fewer than two images.
    """
    if len(features) < 2:
        raise ValueError(f'{len(features)} image(s): leave-one-out k-NN needs at least 2')
    directions, own = F.normalize(features.float(), dim=1), torch.arange(len(features), device=features.device)
    similarity, nearest = nearest_neighbors(directions, directions, min(k + 1, len(features)))
    order = (nearest == own[:, None]).to(torch.uint8).sort(dim=1, stable=True).indices[:, :-1]
    similarity, neighbors = similarity.gather(1, order), labels[nearest.gather(1, order)]
    votes = class_votes(similarity, neighbors, temperature, int(labels.max()) + 1)
    return (votes.argmax(dim=1) == labels).float()
