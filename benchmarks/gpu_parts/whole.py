"""Files to weights: loader, colors and step together, beside the step alone."""

from __future__ import annotations

import statistics
import tempfile
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import end_to_end
import torch
from loader import write_images

from gpu_parts import steps
from gpu_parts.context import Context, number, table, workers_that_fit
from gpu_parts.steps import BASE, SHORT, SMALL

NEEDS_GPU = True
TITLE = 'End to end'
ROUNDS = 2
IMAGE_BYTES = 585_216  # of uint8 crops


def run(context: Context) -> None:
    units = [('mini', 2)] if context.smoke else [(SMALL, 64), (BASE, 64)]
    with tempfile.TemporaryDirectory() as folder:
        root = write_images(Path(folder), 4 if context.smoke else 64)
        for arch, batch in units:
            args = steps.arguments_of(context, arch, batch, 'ADCLR')
            workers = 1 if context.smoke else max(1, workers_that_fit(16, batch * IMAGE_BYTES))
            args.workers, args.compile = workers, not context.smoke
            args.steps = 1 + end_to_end.PREFETCHED * workers + (2 if context.smoke else 100)
            key = f'{SHORT.get(arch, arch)}, {batch} images, {workers} workers'
            context.measure(key, partial(compare, root, args), needs=30)


def compare(root: Path, args: Namespace) -> dict[str, Any]:
    """Images/s from files and without a loader, in turn."""
    torch._dynamo.reset()
    epoch = end_to_end.our_epoch(root, args)
    alone = end_to_end.step_alone(Namespace(**vars(args) | {'steps': args.steps // 2}))
    pairs = [(epoch(), alone()) for _ in range(ROUNDS)]
    whole, without = (statistics.median(column) for column in zip(*pairs, strict=True))
    share = statistics.median(100 * a / b for a, b in pairs)
    return {'images_per_s': whole, 'step_alone_images_per_s': without, 'percent_of_step': share, 'workers': args.workers}


def section(rows: dict[str, dict[str, Any]]) -> list[str]:
    names = ('images_per_s', 'step_alone_images_per_s', 'percent_of_step')
    cells = [[key, *(number(row[name]) for name in names)] for key, row in rows.items()]
    return table(['', 'files to weights, images/s', 'step alone, images/s', '% of the step'], cells)
