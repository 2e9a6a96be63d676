"""Images/s of the loader alone, by workers."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from loader import our_dataset, write_images
from torch.utils.data import DataLoader

from gpu_parts.context import Context, number, table
from mmadclr.datasets import collate_samples

NEEDS_GPU = False
TITLE = 'Loader'
WORKERS = (1, 4, 8, 16)
SECONDS = 4.0


def run(context: Context) -> None:
    counts = (1,) if context.smoke else [count for count in WORKERS if count <= (os.cpu_count() or 1)]
    with tempfile.TemporaryDirectory() as folder:
        root = write_images(Path(folder), 4 if context.smoke else 64)
        for workers in reversed(counts):
            seconds = 0.3 if context.smoke else SECONDS
            context.measure(f'{workers} workers', partial(images_per_second, root, workers, seconds), needs=SECONDS)


def images_per_second(root: Path, workers: int, seconds: float, batch: int = 16) -> dict[str, Any]:
    """From files of 500 x 375 pixels to batches, pinned where there is a GPU, and what it costs of a core."""
    dataset = our_dataset(root, 'fast')
    endless = [index % len(dataset) for index in range(10**6)]
    before = used_by_children()
    pinned = torch.cuda.is_available()
    loader = DataLoader(dataset, batch, sampler=endless, num_workers=workers, collate_fn=collate_samples, pin_memory=pinned)
    batches = iter(loader)
    for _ in range(2 * workers):
        next(batches)
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        next(batches)
        count += batch
    speed, begun = count / elapsed, count + batch * (2 * workers + workers * loader.prefetch_factor)
    del batches, loader  # ends the workers, whose time counts from then on
    return {
        'workers': workers,
        'images_per_s': speed,
        'per_worker': speed / workers,
        'core_ms_an_image': (used_by_children() - before) / begun * 1e3,
    }


def used_by_children() -> float:
    """Processor seconds of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def section(rows: dict[str, dict[str, Any]]) -> list[str]:
    ordered = sorted(rows.values(), key=lambda row: row['workers'])
    names = ('images_per_s', 'per_worker', 'core_ms_an_image')
    cells = [[str(row['workers']), *(number(row[name]) for name in names)] for row in ordered]
    note = 'JPEG files of 500 x 375 pixels to 2 + 10 crops and 10 query crops, uint8; colors are left to the device.'
    header = ['workers', 'images/s', 'images/s a worker', 'ms of a core an image (start of workers included)']
    return [note, '', *table(header, cells)]
