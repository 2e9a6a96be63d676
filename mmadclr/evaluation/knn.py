"""Weighted k-nearest-neighbour classification of frozen features.

Shape legend: N features of the bank, M queries, D channels, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from mmengine import dist
from torch import Tensor

from mmadclr.evaluation.rows import FeatureRows, FeatureSet
from mmadclr.registry import METRICS

BANK_CHUNK = 65_536
TOPS = (1, 5)


class Directions:
    """L2-normalised features in single precision, made for the rows that are asked for.

    Args:
        features: (N, D) of any norm, in memory or on disk.
        device: Where the rows go.
    """

    def __init__(self, features: Tensor | FeatureRows, device: torch.device | str) -> None:
        self.features, self.device = features, device

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: slice) -> Tensor:
        return F.normalize(self.features[rows].to(self.device).float(), dim=1)


@torch.no_grad()
def nearest_neighbours(
    bank: Tensor | Directions, queries: Tensor, k: int, chunk: int = 256, bank_chunk: int = BANK_CHUNK
) -> tuple[Tensor, Tensor]:
    """Cosines (M, k) with the k nearest features of a bank, nearest first, and their rows (M, k).

    Goes through the bank once, ``bank_chunk`` features at a time, and keeps the best so far: memory is that of the queries,
    of the result, and of ``chunk`` x ``bank_chunk`` cosines.

    Args:
        bank: (N, D), L2-normalised.
        queries: (M, D), L2-normalised, on the device to work on.
        k: Number of neighbours.
        chunk, bank_chunk: How many of the two are compared at a time.

    Raises:
        ValueError: The bank has fewer than k features.
    """
    if k > len(bank):
        raise ValueError(f'k={k} neighbours asked of a bank of {len(bank)} features: choose a smaller k')
    similarity = queries.new_full((len(queries), k), -torch.inf)
    nearest = torch.zeros(similarity.shape, dtype=torch.int64, device=queries.device)
    for start in range(0, len(bank), bank_chunk):
        part = bank[start : start + bank_chunk]
        for first in range(0, len(queries), chunk):
            rows = slice(first, first + chunk)
            cosines, columns = (queries[rows] @ part.T).topk(min(k, len(part)), dim=1)
            candidates = torch.cat((nearest[rows], columns + start), dim=1)
            similarity[rows], best = torch.cat((similarity[rows], cosines), dim=1).topk(k, dim=1)
            nearest[rows] = candidates.gather(1, best)
    return similarity, nearest


def class_votes(similarity: Tensor, labels: Tensor, temperature: float, num_classes: int) -> Tensor:
    """Cosines with and labels of neighbours (M, k) -> votes (M, C): each adds ``exp(cosine / temperature)`` to its class.

    Wu et al., CVPR 2018; as facebookresearch/dino, ``eval_knn.py``.
    """
    weights = (similarity / temperature).exp()
    return weights.new_zeros(len(weights), num_classes).scatter_add_(1, labels, weights)


def knn_votes(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, k: int, temperature: float, num_classes: int, chunk: int = 256
) -> Tensor:
    """Votes (M, C) of the k nearest of a bank (N, D) with labels (N,) for queries (M, D), all L2-normalised.

    Raises:
        ValueError: The bank has fewer than k features.
    """
    similarity, nearest = nearest_neighbours(bank, queries, k, chunk)
    return class_votes(similarity, bank_labels[nearest], temperature, num_classes)


@torch.no_grad()
def knn_shares(bank: Tensor, bank_shares: Tensor, queries: Tensor, k: int, temperature: float, chunk: int = 256) -> Tensor:
    """As :func:`knn_votes` for a bank of soft labels (N, C): weighted means (M, C) over the k nearest."""
    similarity, nearest = nearest_neighbours(bank, queries, k, chunk)
    shares = (similarity / temperature).softmax(dim=1).split(chunk)
    parts = zip(shares, nearest.split(chunk), strict=True)
    return torch.cat([torch.einsum('mk,mkc->mc', weights, bank_shares[rows]) for weights, rows in parts])


def top_hits(votes: Tensor, labels: Tensor, tops: Sequence[int] = TOPS) -> list[int]:
    """Number of rows whose label is among the ``top`` classes with the most votes."""
    ranked = votes.topk(min(max(tops), votes.shape[1]), dim=1).indices
    hits = ranked == labels[:, None]
    return [int(hits[:, :top].any(dim=1).sum()) for top in tops]


def top_accuracies(votes: Tensor, labels: Tensor, tops: Sequence[int] = TOPS) -> list[float]:
    """Share of rows, in percent, whose label is among the ``top`` classes with the most votes."""
    return [100 * hits / len(votes) for hits in top_hits(votes, labels, tops)]


@METRICS.register_module()
class WeightedKNN:
    """k-NN accuracy in percent, named with its settings (``knn20_T0.07_top1``) because they move the number.

    All settings share one search for the largest number of neighbours.

    Args:
        k: Numbers of neighbours; DINO reports the best of 10, 20, 100, 200, which usually is 20.
        temperature: Of the votes; one or several.
        chunk: Queries handled at a time.

    Raises:
        ValueError: A number of neighbours or a temperature that is not positive.
    """

    def __init__(self, k: int | Sequence[int] = 20, temperature: float | Sequence[float] = 0.07, chunk: int = 256) -> None:
        self.ks = (k,) if isinstance(k, int) else tuple(k)
        self.temperatures = (temperature,) if isinstance(temperature, (int, float)) else tuple(temperature)
        for name, values in (('k', self.ks), ('temperature', self.temperatures)):
            if not values or min(values) <= 0:
                raise ValueError(f'{name}={list(values)}: give one or more positive numbers')
        self.chunk = chunk

    def __call__(self, bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor) -> dict[str, float]:
        """Features (N, D) and (M, D) of any norm, labels (N,) and (M,) -> accuracies in percent."""
        num_classes = int(torch.cat((bank_labels, labels)).max()) + 1
        hits = self.hits(bank, bank_labels, queries, labels, num_classes, queries.device)
        return {name: 100 * count / len(labels) for name, count in hits.items()}

    @torch.no_grad()
    def hits(
        self,
        bank: Tensor | FeatureRows,
        bank_labels: Tensor,
        queries: Tensor,
        labels: Tensor,
        num_classes: int,
        device: torch.device | str,
    ) -> dict[str, int]:
        """Correctly classified queries for every setting; the bank may be anywhere, the work is done on ``device``."""
        bank, queries = (Directions(features, device) for features in (bank, queries))
        similarity, nearest = nearest_neighbours(bank, queries[:], max(self.ks), self.chunk)
        bank_labels, labels = bank_labels.to(device), labels.to(device)
        totals = dict.fromkeys(self._names(), 0)
        for rows in torch.arange(len(labels), device=device).split(self.chunk):
            counts = self._chunk_hits(similarity[rows], bank_labels[nearest[rows]], labels[rows], num_classes)
            totals = {name: total + count for (name, total), count in zip(totals.items(), counts, strict=True)}
        return totals

    def _chunk_hits(self, similarity: Tensor, neighbours: Tensor, labels: Tensor, num_classes: int) -> Iterator[int]:
        """In the order of ``_names``."""
        for temperature in self.temperatures:
            for k in self.ks:
                yield from top_hits(class_votes(similarity[:, :k], neighbours[:, :k], temperature, num_classes), labels)

    def _names(self) -> list[str]:
        return [f'knn{k}_T{t:g}_top{top}' for t in self.temperatures for k in self.ks for top in TOPS]


def evaluate_knn(metric: WeightedKNN, bank: FeatureSet, queries: FeatureSet, device: torch.device | str) -> dict[str, float]:
    """k-NN accuracies in percent of features in memory or on disk; each process classifies a share of the queries.

    Raises:
        ValueError: The bank has fewer features than neighbours are asked for.
    """
    chosen = slice(dist.get_rank(), None, dist.get_world_size())
    hits = metric.hits(
        bank.rows,
        torch.from_numpy(bank.labels),
        queries.rows[chosen],
        torch.from_numpy(queries.labels[chosen]),
        len(bank.classes),
        device,
    )
    found = dist.all_gather_object(hits)
    return {name: 100 * sum(part[name] for part in found) / len(queries.labels) for name in hits}
