"""Search and clustering of the dense suite: ``python benchmarks/dense.py``.

Hummingbird's exact search against all similarities in one matrix with ``topk``, at a size both can do, and alone against a
bank of a million patches, as share of the rate at which this machine multiplies matrices. k-means against distances, one-hot
assignments and their products written out.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import common
import torch
import torch.nn.functional as F
from common import Row, counted_row, timed_row
from counters import PeakBytes
from torch import Tensor

from mmadclr.evaluation.dense.hummingbird import propagate_shares
from mmadclr.evaluation.dense.kmeans import Clusters, lloyd

K, BETA, CLASSES = 30, 0.02, 21
CHECKED = 9_000, 300  # patches of the bank, and queries
SIDE = 2048  # of the product that measures the machine


def searched(bank: Tensor, shares: Tensor, queries: Tensor) -> Tensor:
    return propagate_shares(bank, shares, queries, K, BETA)


def plain_search(bank: Tensor, shares: Tensor, queries: Tensor) -> Tensor:
    similarity = F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T
    cosines, rows = similarity.topk(K, dim=1)
    return ((cosines / BETA).softmax(dim=1)[:, :, None] * shares[rows].to(cosines)).sum(dim=1)


def plain_lloyd(points: Tensor, start: Tensor, steps: int) -> Clusters:
    centers, objective = start, float('inf')
    for _ in range(steps):
        distances = points.square().sum(dim=1, keepdim=True) - 2 * points @ centers.T + centers.square().sum(dim=1)
        nearest, numbers = distances.min(dim=1)
        objective = nearest.sum().item()
        members = F.one_hot(numbers, len(centers)).to(points)
        centers = members.T @ points / members.sum(dim=0)[:, None]
    return Clusters(centers, objective, steps)


def bank_of(patches: int, queries: int, args: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Random features, class shares and queries."""
    torch.manual_seed(0)
    labels = torch.randint(CLASSES, (patches,), device=args.device)
    sizes = (patches, args.dim), (queries, args.dim)
    bank, asked = (torch.randn(size, device=args.device) for size in sizes)
    return bank, F.one_hot(labels, CLASSES).float(), asked


def points_of(args: argparse.Namespace) -> tuple[Tensor, Tensor, int]:
    """Random points, of which the first are the initial centers, and steps: too few to converge."""
    torch.manual_seed(0)
    points = torch.randn(args.points, args.channels, dtype=torch.float64, device=args.device)
    return points, points[: args.clusters].clone(), args.steps


def peak(form: Callable, *inputs) -> float:
    """MiB alive at a time, the inputs left out."""
    with PeakBytes() as memory:
        form(*inputs)
    return memory.most / 2**20


def check(args: argparse.Namespace) -> str:
    """Largest differences between the forms: of class shares, the plain form in double precision, and of centers.

    Raises:
        SystemExit: They differ by more than rounding.
    """
    data = bank_of(*CHECKED, args)
    shares = (searched(*data) - plain_search(*(x.double() for x in data))).abs().max().item()
    points, start, steps = points_of(args)
    few = points[: 40 * args.clusters]
    centers = (lloyd(few, start, steps).centers - plain_lloyd(few, start, steps).centers).abs().max().item()
    if not (shares < 1e-4 and centers < 1e-9):
        raise SystemExit(f'the two forms disagree: shares by {shares:.1e}, centers by {centers:.1e}')
    return f'shares agree to {shares:.0e}, centers to {centers:.0e}'


def product_rate(args: argparse.Namespace, rounds: int) -> float:
    """FLOP/s of a large product in single precision, median."""
    a, b = (torch.randn(SIDE, SIDE, device=args.device) for _ in range(2))
    torch.mm(a, b)
    times = [common.seconds(lambda: torch.mm(a, b), args.device) for _ in range(rounds)]
    return 2 * SIDE**3 / statistics.median(times)


def search_rows(args: argparse.Namespace, note: str) -> list[Row]:
    """Both forms at the size that both can do."""
    data = bank_of(args.small, args.queries, args)
    forms = [lambda form=form: form(*data) for form in (searched, plain_search)]
    size = f'{args.queries:,} queries in {args.small:,} x {args.dim}'
    return [
        timed_row(f'search, {size}', *forms, args.rounds, args.device, note=note),
        counted_row(f'search, {size}: alive', 'MiB', *(peak(form) for form in forms)),
    ]


def full_rows(args: argparse.Namespace) -> list[Row]:
    """Our search alone at full size, between two measurements of the machine."""
    data = bank_of(args.bank, args.queries, args)
    before = product_rate(args, args.rounds)
    with PeakBytes() as memory:
        spent = common.seconds(lambda: searched(*data), args.device)
    rate = statistics.mean((before, product_rate(args, args.rounds)))
    size = f'{args.queries:,} queries in {args.bank:,} x {args.dim}'
    share = 2 * args.queries * args.bank * args.dim / spent / rate
    alive = memory.most / 2**20, 4 * args.queries * args.bank / 2**20
    return [
        Row(f'search, {size}', 's', spent),
        Row('its products, of the rate of products', '%', 100 * share, note=f'{rate / 1e9:.0f} GFLOP/s'),
        counted_row(f'search, {size}: alive', 'MiB', *alive, note='reference: the matrix of similarities'),
    ]


def kmeans_rows(args: argparse.Namespace) -> list[Row]:
    data = points_of(args)
    forms = [lambda form=form: form(*data) for form in (lloyd, plain_lloyd)]
    size = f'{args.steps} steps of {args.clusters} clusters, {args.points:,} x {args.channels}'
    return [
        timed_row(f'k-means, {size}', *forms, args.rounds, args.device),
        counted_row(f'k-means, {size}: alive', 'MiB', *(peak(form) for form in forms)),
    ]


def main() -> None:
    sizes = dict(bank=1_000_000, dim=384, queries=2_000, small=32_768)
    clusters = dict(points=128_000, channels=50, clusters=500, steps=2)
    args = common.parser(__doc__, **sizes, **clusters, rounds=3).parse_args()
    note = check(args)
    common.report('dense', [*search_rows(args, note), *full_rows(args), *kmeans_rows(args)], args)


if __name__ == '__main__':
    main()
