"""Weighted k-nearest-neighbour classification of frozen features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmadclr.registry import METRICS


@torch.no_grad()
def knn_votes(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, k: int, temperature: float, num_classes: int, chunk: int = 256
) -> Tensor:
    """Votes (M, C) for M queries: each of the k nearest of a bank adds ``exp(cosine / temperature)`` to its class.

    ``bank`` (N, D) and ``queries`` (M, D) are L2-normalised; ``bank_labels`` (N,) int64. Works through ``chunk`` queries
    at a time, so memory grows with N * chunk. Wu et al., CVPR 2018; as facebookresearch/dino, ``eval_knn.py``.

    Raises:
        ValueError: The bank has fewer than k features.
    """
    votes = []
    for part in queries.split(chunk):
        weights, nearest = _neighbours(bank, part, k, temperature)
        empty = weights.new_zeros(len(part), num_classes)
        votes.append(empty.scatter_add_(1, bank_labels[nearest], weights))
    return torch.cat(votes)


@torch.no_grad()
def knn_shares(bank: Tensor, bank_shares: Tensor, queries: Tensor, k: int, temperature: float, chunk: int = 256) -> Tensor:
    """As :func:`knn_votes` for a bank of soft labels (N, C): weighted means (M, C) over the k nearest."""
    shares = []
    for part in queries.split(chunk):
        weights, nearest = _neighbours(bank, part, k, temperature)
        shares.append(torch.einsum('mk,mkc->mc', weights / weights.sum(dim=1, keepdim=True), bank_shares[nearest]))
    return torch.cat(shares)


def _neighbours(bank: Tensor, queries: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Weights ``exp(cosine / temperature)`` and indices (M, k) of the k nearest of the bank."""
    if k > len(bank):
        raise ValueError(f'k={k} neighbours asked of a bank of {len(bank)} features: choose a smaller k')
    similarity, nearest = (queries @ bank.T).topk(k, dim=1)
    return (similarity / temperature).exp(), nearest


def top_accuracies(votes: Tensor, labels: Tensor, tops: Sequence[int] = (1, 5)) -> list[float]:
    """Share of rows, in percent, whose label is among the ``top`` classes with the most votes."""
    ranked = votes.topk(min(max(tops), votes.shape[1]), dim=1).indices
    hits = ranked == labels[:, None]
    return [100 * hits[:, :top].any(dim=1).float().mean().item() for top in tops]


@METRICS.register_module()
class WeightedKNN:
    """k-NN accuracy in percent, named with its settings (``knn20_T0.07_top1``) because they move the number.

    Args:
        k: Numbers of neighbours; DINO reports the best of 10, 20, 100, 200, which usually is 20.
        temperature: Of the votes.
        chunk: Queries handled at a time.
    """

    def __init__(self, k: int | Sequence[int] = 20, temperature: float = 0.07, chunk: int = 256) -> None:
        self.ks = (k,) if isinstance(k, int) else tuple(k)
        self.temperature = temperature
        self.chunk = chunk

    def __call__(self, bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor) -> dict[str, float]:
        """Features (N, D) and (M, D) of any norm, labels (N,) and (M,) -> accuracies in percent."""
        bank, queries = F.normalize(bank.float(), dim=1), F.normalize(queries.float(), dim=1)
        num_classes = int(torch.cat((bank_labels, labels)).max()) + 1
        metrics = {}
        for k in self.ks:
            votes = knn_votes(bank, bank_labels, queries, k, self.temperature, num_classes, self.chunk)
            top1, top5 = top_accuracies(votes, labels)
            name = f'knn{k}_T{self.temperature:g}'
            metrics |= {f'{name}_top1': top1, f'{name}_top5': top5}
        return metrics
