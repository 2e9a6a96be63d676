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
QUERIES = 65_536  # of all processes that are searched for at a time
MERGED = 4_096  # lists that all processes together exchange at a time
LAST = torch.iinfo(torch.int64).max
TOPS = (1, 5)


class Directions:
    """L2-normalized features in single precision, made for the rows that are asked for.

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


class Bank(Protocol):
    """Features (N, D), of which some rows are asked for at a time: a tensor, or what makes them."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...


@torch.no_grad()
def nearest_neighbors(
    bank: Bank, queries: Tensor, k: int, chunk: int = 256, bank_chunk: int = BANK_CHUNK
) -> tuple[Tensor, Tensor]:
    """Cosines (M, k) with the k nearest features of a bank, nearest first, and their rows (M, k).

    Goes through the bank once, ``bank_chunk`` features at a time, and keeps the best so far: memory is that of the queries,
    of the result, and of ``chunk`` x ``bank_chunk`` cosines. Of equal cosines, those of the first rows count.

    Args:
        bank: (N, D), L2-normalized.
        queries: (M, D), L2-normalized, on the device to work on.
        k: Number of neighbors.
        chunk, bank_chunk: How many of the two are compared at a time.

    Raises:
        ValueError: The bank has fewer than k features.
    """
    if k > len(bank):
        raise ValueError(f'k={k} neighbors asked of a bank of {len(bank)} features: choose a smaller k')
    similarity = queries.new_full((len(queries), k), -torch.inf)
    nearest = torch.zeros(similarity.shape, dtype=torch.int64, device=queries.device)
    for start in range(0, len(bank), bank_chunk):
        part = bank[start : start + bank_chunk]
        for first in range(0, len(queries), chunk):
            rows = slice(first, first + chunk)
            cosines, columns = first_largest(queries[rows] @ part.T, min(k, len(part)))
            candidates = torch.cat((nearest[rows], columns + start), dim=1)
            # Of equals, the stable sort leaves those of earlier parts ahead.
            cosines, order = torch.cat((similarity[rows], cosines), dim=1).sort(dim=1, descending=True, stable=True)
            similarity[rows], nearest[rows] = cosines[:, :k], candidates.gather(1, order[:, :k])
    return similarity, nearest


def first_largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row (m, n), falling, and their columns; of equals the first, where ``topk`` takes any."""
    largest, columns = values.topk(k, dim=1)
    least = largest[:, -1:]
    tied = ((values >= least).sum(dim=1) > k).nonzero().flatten()  # which of those equal to the k-th is not decided
    if len(tied):
        some, least = values[tied], least[tied]
        equal = some == least
        ranks = equal.cumsum(dim=1, dtype=torch.int32)
        room = k - (some > least).sum(dim=1, keepdim=True)
        chosen = ((some > least) | (equal & (ranks <= room))).nonzero()[:, 1].view(-1, k)
        largest[tied], columns[tied] = some.gather(1, chosen), chosen
    return in_order(largest, columns)


def in_order(values: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Both (m, j) sorted within their rows: by falling values, of equals by rising numbers."""
    numbers, order = numbers.sort(dim=1)
    values, places = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, numbers.gather(1, places)


def shard_neighbors(
    bank: Directions, bank_rows: Tensor, queries: Directions, k: int, chunk: int = 256
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """:func:`nearest_neighbors` in a bank of which every process holds a part, for queries of which each holds some.

    ``QUERIES`` at a time go to all processes; each searches its part of the bank for them, and the lists go back. Memory is
    that of ``nearest_neighbors`` for those queries, and the same on any number of processes.

    Args:
        bank: (n, D) of this process.
        bank_rows: (n,) their rows in the whole bank, rising, on the device to work on.
        queries: (m, D) of this process.
        k, chunk: See ``nearest_neighbors``.

    Yields:
        Which of the queries of this process, cosines (., k) and rows in the whole bank (., k).

    Raises:
        ValueError: The bank has fewer than k features.
    """
    total, asked = sum(counts_of(len(bank))), max(counts_of(len(queries)))
    if k > total:
        raise ValueError(f'k={k} neighbors asked of a bank of {total} features: choose a smaller k')
    step = max(1, QUERIES // dist.get_world_size())
    for start in range(0, asked, step):
        own = queries[start : start + step]
        length = min(step, asked - start)
        everywhere = gather_padded(own, length).flatten(0, 1)
        found = _padded_neighbors(bank, bank_rows, everywhere, k, chunk)
        similarity, nearest = (part.unflatten(0, (-1, length)) for part in found)
        yield slice(start, start + len(own)), *_merged(similarity, nearest, len(own), k)


def _padded_neighbors(bank: Directions, bank_rows: Tensor, queries: Tensor, k: int, chunk: int) -> tuple[Tensor, Tensor]:
    """In one part of a bank, which may be smaller than k: the rest of the lists is worse than anything."""
    found = min(k, len(bank))
    similarity, nearest = nearest_neighbors(bank, queries, found, chunk) if found else (queries[:, :0],) * 2
    rows = bank_rows[nearest.long()]
    return F.pad(similarity, (0, k - found), value=-torch.inf), F.pad(rows, (0, k - found), value=LAST)


def _merged(similarity: Tensor, nearest: Tensor, own: int, k: int) -> tuple[Tensor, Tensor]:
    """Lists (W, m, k) of this process for the queries of each -> those of all for its ``own`` queries (own, k)."""
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
    """Cosines with and labels of neighbors (M, k) -> votes (M, C): each adds ``exp(cosine / temperature)`` to its class.

    Wu et al., CVPR 2018; as facebookresearch/dino, ``eval_knn.py``.
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
    """As :func:`knn_votes` for a bank of soft labels (N, C): weighted means (M, C) over the k nearest."""
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
    """Share of rows, in percent, whose label is among the ``top`` classes with the most votes."""
    return [100 * hits / len(votes) for hits in top_hits(votes, labels, tops)]


@METRICS.register_module()
class WeightedKNN:
    """k-NN accuracy in percent, named with its settings (``knn20_T0.07_top1``) because they move the number.

    All settings share one search for the largest number of neighbors.

    Args:
        k: Numbers of neighbors; DINO reports the best of 10, 20, 100, 200, which usually is 20.
        temperature: Of the votes; one or several.
        chunk: Queries handled at a time.

    Raises:
        ValueError: A number of neighbors or a temperature that is not positive.
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
        known, asked = (Directions(features, queries.device) for features in (bank, queries))
        similarity, nearest = nearest_neighbors(known, asked[:], max(self.ks), self.chunk)
        hits = self._hits(similarity, bank_labels[nearest], labels, num_classes)
        return {name: 100 * count / len(labels) for name, count in hits.items()}

    @torch.no_grad()
    def of_shards(
        self, bank: Shard, queries: Shard, num_classes: int | None = None, device: torch.device | str | None = None
    ) -> dict[str, float]:
        """The same where both are spread over the processes, of which each searches its part of the bank for all.

        Args:
            bank, queries: What this process holds of them.
            num_classes: Of the labels; as many as occur, by default.
            device: Where to work; where the queries are, by default.

        Raises:
            ValueError: The bank has fewer features than neighbors are asked for.
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
        """Correctly classified queries for every setting, from cosines with and labels of the neighbors (M, k)."""
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
    """k-NN accuracies in percent of features in memory or on disk, of which each process searches a share.

    Raises:
        ValueError: The bank has fewer features than neighbors are asked for.
    """
    return metric.of_shards(shard_of(bank), shard_of(queries), len(bank.classes), device)
