"""Weighted k-nearest-neighbor classification of frozen features.

Shape legend: N features of the bank, M queries, D channels, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from mmengine import dist
from torch import Tensor

from mmadclr.evaluation.feature_shards import Shard, counts_of, gather_padded, shard_of
from mmadclr.evaluation.rows import FeatureRows, FeatureSet
from mmadclr.registry import METRICS

BANK_CHUNK = 65_536
QUERIES = 65_536  # searched at a time, over all processes
MERGED = 4_096  # lists exchanged at a time, over all processes
LAST = torch.iinfo(torch.int64).max
TOPS = (1, 5)


class Directions:
    """L2-normalized features in single precision, computed on access.

    Args:
        features: (N, D) of any norm, in memory or on disk.
        device: Of the returned rows.
    """

    def __init__(self, features: Tensor | FeatureRows, device: torch.device | str) -> None:
        self.features, self.device = features, device

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: slice) -> Tensor:
        return F.normalize(self.features[rows].to(self.device).float(), dim=1)


class Bank(Protocol):
    """Features (N, D), of which some rows are asked for at a time: a tensor, or what makes them."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...


@torch.no_grad()
def nearest_neighbors(
    bank: Bank, queries: Tensor, k: int, chunk: int = 256, bank_chunk: int = BANK_CHUNK
) -> tuple[Tensor, Tensor]:
    """Cosines (M, k) with the k nearest features of a bank, nearest first, and their rows (M, k).

    Scans the bank once, ``bank_chunk`` features at a time, and keeps the best so far: needs memory for the queries,
    the result, and ``chunk`` x ``bank_chunk`` cosines. Ties go to the first rows.

    Args:
        bank: (N, D), L2-normalized.
        queries: (M, D), L2-normalized, on the device to use.
        k: Number of neighbors.
        chunk, bank_chunk: Number of queries and bank features compared at a time.

    Raises:
        ValueError: The bank has fewer than k features.
    """
    if k > len(bank):
        raise ValueError(f'k={k} neighbors requested from a bank of {len(bank)} features: choose a smaller k')
    similarity = queries.new_full((len(queries), k), -torch.inf)
    nearest = torch.zeros(similarity.shape, dtype=torch.int64, device=queries.device)
    for start in range(0, len(bank), bank_chunk):
        part = bank[start : start + bank_chunk]
        for first in range(0, len(queries), chunk):
            rows = slice(first, first + chunk)
            cosines, columns = first_largest(queries[rows] @ part.T, min(k, len(part)))
            candidates = torch.cat((nearest[rows], columns + start), dim=1)
            # The stable sort keeps ties in bank order.
            cosines, order = torch.cat((similarity[rows], cosines), dim=1).sort(dim=1, descending=True, stable=True)
            similarity[rows], nearest[rows] = cosines[:, :k], candidates.gather(1, order[:, :k])
    return similarity, nearest


def first_largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest values of each row (m, n), descending, and their columns; ties go to the first, unlike ``topk``."""
    largest, columns = values.topk(k, dim=1)
    least = largest[:, -1:]
    tied = ((values >= least).sum(dim=1) > k).nonzero().flatten()  # more values tie with the k-th than fit
    if len(tied):
        some, least = values[tied], least[tied]
        equal = some == least
        ranks = equal.cumsum(dim=1, dtype=torch.int32)
        room = k - (some > least).sum(dim=1, keepdim=True)
        chosen = ((some > least) | (equal & (ranks <= room))).nonzero()[:, 1].view(-1, k)
        largest[tied], columns[tied] = some.gather(1, chosen), chosen
    return in_order(largest, columns)


def in_order(values: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Both (m, j) sorted within their rows: by descending values, ties by ascending numbers."""
    numbers, order = numbers.sort(dim=1)
    values, places = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, numbers.gather(1, places)


def shard_neighbors(
    bank: Directions, bank_rows: Tensor, queries: Directions, k: int, chunk: int = 256
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """:func:`nearest_neighbors` with both bank and queries distributed over processes.

    ``QUERIES`` at a time are sent to all processes; each searches its part of the bank and returns the lists. Needs the
    memory of ``nearest_neighbors`` for those queries, independent of the number of processes.

    Args:
        bank: (n, D) of this process.
        bank_rows: (n,) their rows in the full bank, ascending, on the device to use.
        queries: (m, D) of this process.
        k, chunk: See ``nearest_neighbors``.

    Yields:
        Slice of this process's queries, cosines (., k) and rows in the full bank (., k).

    Raises:
        ValueError: The bank has fewer than k features.
    """
    total, asked = sum(counts_of(len(bank))), max(counts_of(len(queries)))
    if k > total:
        raise ValueError(f'k={k} neighbors requested from a bank of {total} features: choose a smaller k')
    step = max(1, QUERIES // dist.get_world_size())
    for start in range(0, asked, step):
        own = queries[start : start + step]
        length = min(step, asked - start)
        everywhere = gather_padded(own, length).flatten(0, 1)
        found = _padded_neighbors(bank, bank_rows, everywhere, k, chunk)
        similarity, nearest = (part.unflatten(0, (-1, length)) for part in found)
        yield slice(start, start + len(own)), *_merged(similarity, nearest, len(own), k)


def _padded_neighbors(bank: Directions, bank_rows: Tensor, queries: Tensor, k: int, chunk: int) -> tuple[Tensor, Tensor]:
    """Neighbors in one part of a bank; if it is smaller than k, lists are padded with the worst values."""
    found = min(k, len(bank))
    similarity, nearest = nearest_neighbors(bank, queries, found, chunk) if found else (queries[:, :0],) * 2
    missing, rows = (len(queries), k - found), bank_rows[nearest.long()]
    # Not by F.pad, which takes its value for a float, and so not every integer.
    return torch.cat([similarity, similarity.new_full(missing, -torch.inf)], 1), torch.cat(
        [rows, rows.new_full(missing, LAST)], 1
    )


def _merged(similarity: Tensor, nearest: Tensor, own: int, k: int) -> tuple[Tensor, Tensor]:
    """Lists (W, m, k) of this process for the queries of each -> merged lists for its ``own`` queries (own, k)."""
    rank, world_size = dist.get_rank(), len(similarity)
    if world_size == 1:
        return similarity[0], nearest[0]
    merged = []
    step = max(1, MERGED // world_size)
    for start in range(0, similarity.shape[1], step):
        parts = (torch.stack(dist.all_gather(part[:, start : start + step].contiguous())) for part in (similarity, nearest))
        values, rows = (part[:, rank].transpose(0, 1).flatten(1) for part in parts)
        values, rows = in_order(values, rows)
        merged.append((values[:, :k], rows[:, :k]))
    values, rows = (torch.cat(part)[:own] for part in zip(*merged, strict=True))
    return values, rows


def class_votes(similarity: Tensor, labels: Tensor, temperature: float, num_classes: int) -> Tensor:
    """Cosines and labels of neighbors (M, k) -> votes (M, C): each adds ``exp(cosine / temperature)`` to its class.

    Wu et al., CVPR 2018; as in facebookresearch/dino, ``eval_knn.py``.
    """
    weights = (similarity / temperature).exp()
    return weights.new_zeros(len(weights), num_classes).scatter_add_(1, labels, weights)


def knn_votes(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, k: int, temperature: float, num_classes: int, chunk: int = 256
) -> Tensor:
    """Votes (M, C) of the k nearest of a bank (N, D) with labels (N,) for queries (M, D), all L2-normalized.

    Raises:
        ValueError: The bank has fewer than k features.
    """
    similarity, nearest = nearest_neighbors(bank, queries, k, chunk)
    return class_votes(similarity, bank_labels[nearest], temperature, num_classes)


@torch.no_grad()
def knn_shares(bank: Tensor, bank_shares: Tensor, queries: Tensor, k: int, temperature: float, chunk: int = 256) -> Tensor:
    """As :func:`knn_votes` for a bank with soft labels (N, C): weighted means (M, C) over the k nearest."""
    similarity, nearest = nearest_neighbors(bank, queries, k, chunk)
    shares = (similarity / temperature).softmax(dim=1).split(chunk)
    parts = zip(shares, nearest.split(chunk), strict=True)
    return torch.cat([torch.einsum('mk,mkc->mc', weights, bank_shares[rows]) for weights, rows in parts])


def top_hits(votes: Tensor, labels: Tensor, tops: Sequence[int] = TOPS) -> list[int]:
    """Number of rows whose label is among the ``top`` classes with the most votes."""
    ranked = votes.topk(min(max(tops), votes.shape[1]), dim=1).indices
    hits = ranked == labels[:, None]
    return [int(hits[:, :top].any(dim=1).sum()) for top in tops]


def top_accuracies(votes: Tensor, labels: Tensor, tops: Sequence[int] = TOPS) -> list[float]:
    """Percentage of rows whose label is among the ``top`` classes with the most votes."""
    return [100 * hits / len(votes) for hits in top_hits(votes, labels, tops)]


@METRICS.register_module()
class WeightedKNN:
    """k-NN accuracy in percent, named by its settings (``knn20_T0.07_top1``) because they affect the number.

    All settings share one search for the largest number of neighbors.

    Args:
        k: Numbers of neighbors; DINO reports the best of 10, 20, 100, 200, which usually is 20.
        temperature: Of the votes; one or several.
        chunk: Queries processed at a time.

    Raises:
        ValueError: A number of neighbors or a temperature that is not positive.
    """

    def __init__(self, k: int | Sequence[int] = 20, temperature: float | Sequence[float] = 0.07, chunk: int = 256) -> None:
        self.ks = (k,) if isinstance(k, int) else tuple(k)
        self.temperatures = (temperature,) if isinstance(temperature, (int, float)) else tuple(temperature)
        for name, values in (('k', self.ks), ('temperature', self.temperatures)):
            if not values or min(values) <= 0:
                raise ValueError(f'{name}={list(values)} must be one or more positive numbers')
        self.chunk = chunk

    def __call__(self, bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor) -> dict[str, float]:
        """Features (N, D) and (M, D) of any norm, labels (N,) and (M,) -> accuracies in percent."""
        num_classes = int(torch.cat((bank_labels, labels)).max()) + 1
        known, asked = (Directions(features, queries.device) for features in (bank, queries))
        similarity, nearest = nearest_neighbors(known, asked[:], max(self.ks), self.chunk)
        hits = self._hits(similarity, bank_labels[nearest], labels, num_classes)
        return {name: 100 * count / len(labels) for name, count in hits.items()}

    @torch.no_grad()
    def of_shards(
        self, bank: Shard, queries: Shard, num_classes: int | None = None, device: torch.device | str | None = None
    ) -> dict[str, float]:
        """The same with bank and queries distributed over processes, each of which searches its part of the bank for all.

        Args:
            bank, queries: This process's shards.
            num_classes: Of the labels; by default inferred from them.
            device: By default that of the queries.

        Raises:
            ValueError: The bank has fewer features than the number of neighbors.
        """
        device = queries.rows.device if device is None else device
        bank_labels, labels = bank.labels.to(device), queries.labels.to(device)
        num_classes = num_classes or int(torch.cat((bank_labels, labels)).max()) + 1
        own, rows = labels[queries.rows.to(device)], bank.rows.to(device)
        directions = [Directions(shard.features, device) for shard in (bank, queries)]
        totals = torch.zeros(len(self._names()), dtype=torch.int64)
        for part, similarity, nearest in shard_neighbors(directions[0], rows, directions[1], max(self.ks), self.chunk):
            hits = self._hits(similarity, bank_labels[nearest], own[part], num_classes)
            totals += torch.tensor(list(hits.values()))
        dist.all_reduce(totals)
        return {name: 100 * count / len(labels) for name, count in zip(self._names(), totals.tolist(), strict=True)}

    def _hits(self, similarity: Tensor, neighbors: Tensor, labels: Tensor, num_classes: int) -> dict[str, int]:
        """Correctly classified queries for every setting, from cosines and labels of the neighbors (M, k)."""
        totals = dict.fromkeys(self._names(), 0)
        for rows in torch.arange(len(labels), device=labels.device).split(self.chunk):
            counts = self._chunk_hits(similarity[rows], neighbors[rows], labels[rows], num_classes)
            totals = {name: total + count for (name, total), count in zip(totals.items(), counts, strict=True)}
        return totals

    def _chunk_hits(self, similarity: Tensor, neighbors: Tensor, labels: Tensor, num_classes: int) -> Iterator[int]:
        """In the order of ``_names``."""
        for temperature in self.temperatures:
            for k in self.ks:
                yield from top_hits(class_votes(similarity[:, :k], neighbors[:, :k], temperature, num_classes), labels)

    def _names(self) -> list[str]:
        return [f'knn{k}_T{t:g}_top{top}' for t in self.temperatures for k in self.ks for top in TOPS]


def evaluate_knn(metric: WeightedKNN, bank: FeatureSet, queries: FeatureSet, device: torch.device | str) -> dict[str, float]:
    """k-NN accuracies in percent of features in memory or on disk; the search is split over processes.

    Raises:
        ValueError: The bank has fewer features than the number of neighbors.
    """
    return metric.of_shards(shard_of(bank), shard_of(queries), len(bank.classes), device)
