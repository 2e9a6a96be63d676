"""Files to weights, loader and step together: ``python benchmarks/end_to_end.py``.

JPEG files of 500 x 375 pixels through the loader's workers and into training steps, against the same with the loader and the
step of the published structure (``loader.py``, ``reference.py``), in turn; and our step alone, on views that are already
there. On a CPU the default network is so small that loading matters, as it does for a large one on a GPU: there, name
``--arch``, ``--batch`` and ``--workers``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import common
import torch
from common import Row
from loader import QUERIES, ReferenceDataset, our_dataset, write_images
from step import OurStep, build, draw_views, reference_step
from torch.utils.data import DataLoader, default_collate

from mmadclr.datasets import collate_samples
from mmadclr.models.compilation import compile_blocks
from mmadclr.models.preprocessors import ViewPreprocessor
from mmadclr.reliability.loader_guard import DevicePrefetcher

PREFETCHED = 2  # batches that a worker holds ready


def batches(dataset, collate: Callable, args: argparse.Namespace) -> DataLoader:
    indices = list(range(len(dataset))) * (args.batch * args.steps // len(dataset) + 1)
    pinned = args.device == 'cuda'
    settings = dict(num_workers=args.workers, collate_fn=collate, pin_memory=pinned, persistent_workers=True)
    settings['prefetch_factor'] = PREFETCHED
    return DataLoader(dataset, args.batch, sampler=indices[: args.batch * args.steps], **settings)


def our_epoch(root: Path, args: argparse.Namespace) -> Callable[[], float]:
    """A function that trains on all batches once and returns images/s."""
    step, preprocessor = OurStep(prepared(args), args.precision), ViewPreprocessor().to(args.device)
    if args.compile and args.device == 'cuda':
        preprocessor.compile_colors()
    loader = DevicePrefetcher(batches(our_dataset(root, 'fast'), collate_samples, args), args.device)
    return lambda: timed_epoch(loader, lambda batch: step(**preprocessor(batch, True)['views']), args)


def reference_epoch(root: Path, args: argparse.Namespace) -> Callable[[], float]:
    step = reference_step(build(args), args.precision)
    loader = batches(ReferenceDataset(root), default_collate, args)

    def train_on(crops: list[torch.Tensor]) -> None:
        crops = [crop.to(args.device, non_blocking=True) for crop in crops]
        queries = torch.stack(crops[-QUERIES:], dim=1)[:, None].expand(-1, 2, -1, -1, -1, -1)
        views = torch.stack(crops[:2], dim=1), torch.stack(crops[2:-QUERIES], dim=1)
        step(global_views=views[0], local_views=views[1], query_crops=queries)

    return lambda: timed_epoch(loader, train_on, args)


def timed_epoch(loader, train_on: Callable, args: argparse.Namespace) -> float:
    """Images/s of all batches but the first ones, which the workers prepare while the first step is on its way."""
    iterator = iter(loader)
    for _ in range(1 + PREFETCHED * getattr(loader, 'num_workers', 0)):
        train_on(next(iterator))
    _wait(args.device)
    start = time.perf_counter()
    count = sum((train_on(batch), args.batch)[1] for batch in iterator)
    _wait(args.device)
    return count / (time.perf_counter() - start)


def step_alone(args: argparse.Namespace) -> Callable[[], float]:
    """A function that takes as many steps without a loader and returns images/s."""
    step, views = OurStep(prepared(args), args.precision), draw_views(args)
    return lambda: timed_epoch([views] * args.steps, lambda batch: step(**batch), args)


def prepared(args: argparse.Namespace) -> torch.nn.Module:
    """The model, compiled if the arguments say so.

    Raises:
        SystemExit: torch cannot compile here.
    """
    model = build(args)
    if args.compile and not compile_blocks(model, True):
        raise SystemExit('torch cannot compile here')
    return model


def _wait(device: str) -> None:
    if device == 'cuda':
        torch.cuda.synchronize()


def main() -> None:
    defaults = dict(arch='mini', batch=8, steps=12, rounds=3, workers=1, queries=QUERIES, locals=10, prototypes=8192)
    parser = common.parser(__doc__, precision='fp32', **defaults)
    parser.add_argument('--compile', action='store_true', help='compile our blocks')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = write_images(Path(folder), 16)
        epochs = our_epoch(root, args), reference_epoch(root, args), step_alone(args)
        speeds = [[epoch() for epoch in epochs] for _ in range(args.rounds)]
    ratios = sorted(ours / theirs for ours, theirs, _ in speeds)
    shares = sorted(100 * ours / alone for ours, _, alone in speeds)
    ours, theirs, alone = (statistics.median(column) for column in zip(*speeds, strict=True))
    rows = [
        Row('files to weights', 'images/s', ours, theirs, statistics.median(ratios), (ratios[0], ratios[-1]), '>= 3 (GPU)'),
        Row('our step alone', 'images/s', alone),
        Row('share of the step alone', '%', statistics.median(shares), target='>= 90 (GPU, 16 cores)', note='wall clock'),
    ]
    common.report('end_to_end', rows, args)


if __name__ == '__main__':
    main()
