"""Exact nearest neighbors among patches, with identical results on every device.

Single-precision dot products depend on the summation order of a device, so close and tied neighbors can swap
places between devices. Here features are rounded to multiples of 2**-26, whose products and sums are exact in
double precision in any order. Single precision only proposes candidates, and only where its error is irrelevant.

Shape legend: M features of the bank, Q queries, D channels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mmadclr.evaluation.knn import in_order, nearest_neighbors

Metric = Literal['cosine', 'L2']
DIRECTION_BITS, POINT_BITS = 26, 25  # sums of products stay below 2**53
SPARE = 64  # candidates beyond k
GATHERED_BYTES = {'cpu': 2**22, 'cuda': 2**27}  # on a CPU, what its caches hold
PREPARED = 1024  # rows at a time, on a CPU
QUERIES = 65_536  # at a time
ROUNDINGS = {'highest': 2.0**-24, 'high': 2.0**-11, 'medium': 2.0**-8}  # rounding of factors: float32, TF32, bfloat16


class _Rows:
    """Rows of a bank in the form used by the search, computed on access; in double precision if ``exact``."""

    def __init__(self, features: Tensor, metric: Metric, scale: Tensor | None, exact: bool) -> None:
        self.features, self.metric, self.scale, self.exact = features, metric, scale, exact

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        features = self.features[rows]
        if features.ndim > 2 or features.device.type != 'cpu' or len(features) <= PREPARED:
            return self._prepared(features)
        return torch.cat([self._prepared(part) for part in features.split(PREPARED)])

    def _prepared(self, features: Tensor) -> Tensor:
        points = _fixed(features, self.metric, self.scale)
        if self.metric == 'L2':  # largest q . b - |b|**2 / 2 is smallest |q - b|
            points = torch.cat((points, -points.square().sum(dim=-1, keepdim=True) / 2), dim=-1)
        return points if self.exact else (points / _unit(self.metric)).float()


def _unit(metric: Metric) -> float:
    return 2.0 ** (DIRECTION_BITS if metric == 'cosine' else POINT_BITS)


def _fixed(features: Tensor, metric: Metric, scale: Tensor | None) -> Tensor:
    """Directions, or with a ``scale`` (the largest norm) points in units of it, as integers in double precision."""
    points = features.double()
    points = points / (points.norm(dim=-1, keepdim=True) if scale is None else scale)
    return (points * _unit(metric)).round_()


def _queries(features: Tensor, metric: Metric, scale: Tensor | None) -> Tensor:
    points = _fixed(features, metric, scale)
    return points if metric == 'cosine' else torch.cat((points, torch.ones_like(points[:, :1])), dim=1)


def check_features(features: Tensor, what: str, directed: bool = True) -> Tensor:
    """(n,) norms of features (n, D), double precision.

    Raises:
        ValueError: A value is not finite; with ``directed``, a feature is zero and has no direction.
    """
    norms = torch.cat([part.double().norm(dim=1) for part in features.split(2**14)])
    bad = ~norms.isfinite() | (norms == 0) if directed else ~norms.isfinite()
    if bad.any():
        raise ValueError(f'{what} {int(bad.nonzero()[0])} of {len(norms)} is {"zero or " if directed else ""}not finite')
    return norms


@torch.no_grad()
def nearest_patches(bank: Tensor, queries: Tensor, k: int, metric: Metric = 'cosine') -> tuple[Tensor, Tensor]:
    """Cosines or distances (Q, k) of the k nearest features of a bank, nearest first, and their rows (Q, k).

    Ties go to the first rows. Uses memory for bank, queries, result and blocks of fixed size.

    Args:
        bank: (M, D) of any dtype, on the device to use.
        queries: (Q, D).
        k: Number of neighbors.
        metric: ``'cosine'`` or ``'L2'`` (Euclidean distance).

    Raises:
        ValueError: Fewer than k features, different widths, features that are not finite or, for cosines, zero.
    """
    if metric not in ('cosine', 'L2'):
        raise ValueError(f"metric={metric!r}: must be 'cosine' or 'L2'")
    if bank.shape[1] != queries.shape[1]:
        raise ValueError(f'queries of {queries.shape[1]} channels, bank of {bank.shape[1]}: must be the same')
    if not 1 <= k <= len(bank):
        raise ValueError(f'k={k} neighbors: must be between 1 and {len(bank)}, the features in the bank')
    norms = [check_features(x, what, metric == 'cosine') for x, what in ((bank, 'bank feature'), (queries, 'query feature'))]
    scale = None if metric == 'cosine' else torch.cat(norms).max().clamp(min=1e-30)
    found = [_nearest(bank, some, k, metric, scale) for some in queries.split(QUERIES)]
    values, rows = (torch.cat(part) for part in zip(*found, strict=True))
    return values, rows


def _nearest(bank: Tensor, queries: Tensor, k: int, metric: Metric, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Candidates in single precision, exactly sorted, and an exact search where the candidates may miss a neighbor."""
    exact = _Rows(bank, metric, scale, exact=True)
    if len(bank) <= k + SPARE:
        return _as_measured(*nearest_neighbors(exact, _queries(queries, metric, scale), k), queries, metric, scale)
    coarse = _Rows(bank, metric, scale, exact=False)
    proposed, rows = nearest_neighbors(coarse, (_queries(queries, metric, scale) / _unit(metric)).float(), k + SPARE)
    scores, nearest = _refined(exact, queries, rows, k, metric, scale)
    unsure = (proposed[:, k - 1] - proposed[:, -1] <= _error(bank.shape[1])).nonzero().flatten()
    if len(unsure):
        scores[unsure], nearest[unsure] = nearest_neighbors(exact, _queries(queries[unsure], metric, scale), k)
    return _as_measured(scores, nearest, queries, metric, scale)


def _error(channels: int) -> float:
    """Upper bound of twice the single-precision error of a dot product of vectors with norm at most 1."""
    given = ROUNDINGS[torch.get_float32_matmul_precision()]
    return 4 * (2 * given + (channels + 2) * ROUNDINGS['highest'])


def _refined(
    exact: _Rows, queries: Tensor, rows: Tensor, k: int, metric: Metric, scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The k best of candidates (Q, k + spare), by exact dot products."""
    most = GATHERED_BYTES.get(queries.device.type, GATHERED_BYTES['cuda'])
    step = max(1, most // (8 * rows.shape[1] * queries.shape[1]))
    found = []
    for some, candidates in zip(queries.split(step), rows.split(step), strict=True):
        products = (exact[candidates] @ _queries(some, metric, scale)[:, :, None]).squeeze(2)
        found.append([part[:, :k] for part in in_order(products, candidates)])
    if not found:
        return rows[:, :k].double(), rows[:, :k]
    scores, nearest = (torch.cat(part) for part in zip(*found, strict=True))
    return scores, nearest


def _as_measured(
    scores: Tensor, rows: Tensor, queries: Tensor, metric: Metric, scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Converts exact dot products to cosines or distances."""
    if scale is None:
        return scores / _unit(metric) ** 2, rows
    lengths = _fixed(queries, metric, scale).square().sum(dim=1, keepdim=True)
    return (lengths - 2 * scores).clamp(min=0).sqrt() / _unit(metric) * scale, rows
