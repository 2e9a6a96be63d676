"""k-NN at the size of ImageNet: ``python benchmarks/knn.py``.

Weighted votes of the nearest of 1.28 million features on disk, against one product of all queries with the whole bank. Bytes
alive at a time are counted on tensors without contents, hence for all 50,000 queries; time at sizes that fit.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np
import torch
import torch.nn.functional as F
from common import Row, counted_row
from counters import PeakBytes
from torch._subclasses.fake_tensor import FakeTensorMode

from mmadclr.evaluation.knn import Directions, class_votes, nearest_neighbors
from mmadclr.evaluation.rows import FeatureRows

K, CLASSES, TEMPERATURE = 200, 1000, 0.07


def ours(bank: torch.Tensor | FeatureRows, labels: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Votes (M, C)."""
    bank = Directions(bank, queries.device)
    similarity, nearest = nearest_neighbors(bank, F.normalize(queries, dim=1), K)
    parts = zip(similarity.split(256), nearest.split(256), strict=True)
    return torch.cat([class_votes(near, labels[rows], TEMPERATURE, CLASSES) for near, rows in parts])


def reference(bank: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    cosines = F.normalize(queries, dim=1) @ F.normalize(bank.to(queries.device).float(), dim=1).T
    similarity, nearest = cosines.topk(K, dim=1)
    return class_votes(similarity, labels[nearest], TEMPERATURE, CLASSES)


def inputs(bank: int, queries: int, args: argparse.Namespace, device: str) -> tuple[torch.Tensor, ...]:
    """Bank in half precision on the CPU, its labels, and queries."""
    torch.manual_seed(0)
    labels = torch.randint(CLASSES, (bank,), device=device)
    return torch.randn(bank, args.dim).half(), labels, torch.randn(queries, args.dim, device=device)


def peak(form: Callable, args: argparse.Namespace) -> float:
    """GiB at full size, the stored bank and the queries left out."""
    with FakeTensorMode():
        data = inputs(args.bank, 50_000, args, 'cpu')
        with PeakBytes() as memory:
            form(*data)
    return memory.most / 2**30


def check(args: argparse.Namespace) -> str:
    """Largest difference of votes, relative to the largest vote."""
    data = inputs(2 * 65_536 + 100, 300, args, args.device)  # two chunks of the bank and a bit
    found, expected = ours(*data), reference(*data)
    error = ((found - expected).abs().max() / expected.max()).item()
    if error > 1e-5:
        raise SystemExit(f'the two forms disagree by {error:.1e} of the largest vote')
    return f'votes agree to {error:.1e} of the largest'


def write_bank(path: Path, args: argparse.Namespace) -> FeatureRows:
    """Random features on disk."""
    rng = np.random.default_rng(0)
    bank = np.lib.format.open_memmap(path, 'w+', np.float16, (args.bank, args.dim))
    for start in range(0, args.bank, 65_536):
        part = bank[start : start + 65_536]
        part[:] = rng.integers(-127, 128, part.shape, dtype=np.int8)
    bank.flush()
    return FeatureRows([np.load(path, mmap_mode='r')])


def full_size(args: argparse.Namespace) -> list[Row]:
    """Time of some queries against the whole bank on disk, and how far memory in use grew meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        bank = write_bank(Path(folder, 'bank.npy'), args)
        _, labels, queries = inputs(1, args.queries, args, args.device)
        labels = labels.expand(args.bank)
        before = resident()
        spent = common.seconds(lambda: ours(bank, labels, queries), args.device)
        grown = resident() - before
    size = f'{args.queries} queries, {args.bank:,} x {args.dim} on disk'
    return [
        Row(f'time of {size}', 's', spent),
        Row(f'growth of resident memory, {size}', 'GiB', grown, note='pages of the mapped file included'),
    ]


def resident() -> float:
    """Most memory this process ever had resident, GiB."""
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def main() -> None:
    defaults = dict(bank=1_281_167, dim=384, queries=256, small=131_072, rounds=3)
    args = common.parser(__doc__, **defaults).parse_args()
    rows = full_size(args)
    print(check(args))
    size = f'50,000 queries, {args.bank:,} x {args.dim}'
    rows.insert(0, counted_row(f'alive, {size}', 'GiB', peak(ours, args), peak(reference, args), target='<= 1 GiB'))
    data = inputs(args.small, args.queries, args, args.device)
    forms = (lambda form=form: form(*data) for form in (ours, reference))
    quantity = f'time of {args.queries} queries, {args.small:,} x {args.dim} in memory'
    rows.append(common.timed_row(quantity, *forms, args.rounds, args.device))
    common.report('knn', rows, args)


if __name__ == '__main__':
    main()
