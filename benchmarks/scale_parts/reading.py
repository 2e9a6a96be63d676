"""What reading costs: images of evaluation by either form of ``ResizeCenterCrop``, and shared arrays that are used again.

The reference of the first is ``backend='pillow'``; files are of two qualities, because the fast form decodes most of its
time. The reference of the second makes fresh shared memory for every batch; counted is the time in the kernel, of the main
process and of two workers, with the start of the workers.
"""

from __future__ import annotations

import math
import resource
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import Row, compare
from loader import natural_image
from torch import Tensor
from torch.utils.data import DataLoader

from mmadclr.datasets import ImageDataset, collate_samples
from mmadclr.datasets.shared_arrays import Shapes, SharedArrays

QUALITIES = (75, 90)
WORKERS, BATCH = 2, 32
USERS = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def write_images(folder: Path, count: int, quality: int) -> Path:
    """JPEG files of 500 x 375 pixels."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        natural_image(rng, 500, 375).save(folder / f'{number:03d}.jpg', quality=quality)
    return folder


def evaluation_rows(folder: Path, quality: int, rounds: int) -> list[Row]:
    """Images a second of one core, batches of data sets without workers, and the deviation of all values.

    Raises:
        RuntimeError: The two forms differ by more than .01 levels on average, or by more than 2.
    """
    fast, pillow = (ImageDataset(folder, dict(type='mmadclr.ResizeCenterCrop', backend=name)) for name in ('fast', 'pillow'))
    count = len(fast)

    def load(dataset: ImageDataset) -> Tensor:
        return collate_samples(dataset.__getitems__(range(count)))['images']

    off = (load(fast).int() - load(pillow).int()).abs()
    mean, worst = off.float().mean().item(), off.max().item()
    if mean > 0.01 or worst > 2:
        raise RuntimeError(f'the two forms differ by {mean} levels on average and {worst} at most')
    mine, theirs, ratio, ratios = compare(lambda: load(fast), lambda: load(pillow), rounds)
    size = statistics.fmean(path.stat().st_size for path in folder.iterdir()) / 1e3
    what = f'evaluation reading, quality {quality} ({size:.0f} kB)'
    return [
        Row(what, 'images/s/core', count / mine, count / theirs, ratio, (ratios[0], ratios[-1]), '>= 2.4'),
        Row(f'{what}, deviation: mean', 'levels', mean, target='<= .01', note=f'worst {worst}'),
    ]


class FreshArrays(SharedArrays):
    """Shared memory of its own for every array of every batch."""

    def take(self, shapes: Shapes, shared: bool) -> dict[str, Tensor]:
        if not shared:
            return super().take(shapes, shared)
        empty = torch.empty(0, dtype=torch.uint8)
        new = torch.UntypedStorage._new_shared
        return {name: empty.new_empty(0).set_(new(math.prod(shape)), 0, shape) for name, shape in shapes.items()}

    def __reduce__(self) -> tuple:
        return FreshArrays, ()


def kernel_and_all(dataset: ImageDataset, batches: int) -> tuple[float, float]:
    """Milliseconds an image in the kernel, and altogether, of all processes."""
    keys = [number % len(dataset) for number in range(BATCH * batches)]
    before = [resource.getrusage(who) for who in USERS]
    for batch in DataLoader(dataset, BATCH, sampler=keys, num_workers=WORKERS, collate_fn=collate_samples):
        batch['global_views'][..., 0].sum()
        del batch
    spent = list(zip(before, (resource.getrusage(who) for who in USERS), strict=True))
    kernel, user = (sum(getattr(b, name) - getattr(a, name) for a, b in spent) for name in ('ru_stime', 'ru_utime'))
    return kernel / len(keys) * 1e3, (kernel + user) / len(keys) * 1e3


def array_rows(folder: Path, batches: int, rounds: int) -> list[Row]:
    """Both in turn; one loader of each comes first."""
    ours, theirs = (ImageDataset(folder, dict(type='mmadclr.MultiCrop', num_query=10)) for _ in range(2))
    theirs.transform._arrays = FreshArrays()
    figures = [(kernel_and_all(ours, batches), kernel_and_all(theirs, batches)) for _ in range(rounds + 1)][1:]
    rows = []
    for number, what in enumerate(('time in the kernel', 'processor time')):
        mine, reference = ([figure[form][number] for figure in figures] for form in (0, 1))
        rows.append(spread_row(f'training loader, two workers, {what}', 'ms/image', mine, reference))
    return rows


def spread_row(quantity: str, unit: str, mine: list[float], reference: list[float]) -> Row:
    ratios = sorted(b / max(a, 1e-9) for a, b in zip(mine, reference, strict=True))
    medians: Callable[[list[float]], float] = statistics.median
    return Row(quantity, unit, medians(mine), medians(reference), medians(ratios), (ratios[0], ratios[-1]))


def rows(scale: float = 1.0) -> list[Row]:
    """Everything; ``scale`` shrinks the number of images, of batches and of rounds."""
    count, batches, rounds = max(round(16 * scale), 2), max(round(40 * scale), 2), max(round(9 * scale), 1)
    with tempfile.TemporaryDirectory() as folder:
        folders = {quality: write_images(Path(folder, str(quality)), count, quality) for quality in QUALITIES}
        found = [row for quality, place in folders.items() for row in evaluation_rows(place, quality, rounds)]
        return [*found, *array_rows(folders[QUALITIES[0]], batches, rounds)]
