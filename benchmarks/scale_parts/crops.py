"""Crops cut on the device instead of in the workers: ``MultiCrop(backend='device')`` against ``'fast'``.

What a worker does for a batch (reading, drawing, decoding, and cutting or not), in the set-up of ``benchmarks/loader.py``;
what it sends; and the part of the device, timed on this CPU for information only, with its operations counted.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common
import torch
from common import Row
from loader import LOCALS, QUERIES, deviation, load, our_dataset, write_images

from mmadclr.datasets import packed_images, transforms
from mmadclr.datasets.transforms import KINDS
from mmadclr.models.preprocessors.packed_views import with_views

ROUNDS = 9


def rows(scale: float = 1.0) -> list[Row]:
    """All figures; ``scale`` below 1 takes fewer images and rounds."""
    count, rounds = max(2, round(16 * scale)), max(2, round(ROUNDS * scale))
    with tempfile.TemporaryDirectory() as folder:
        root = write_images(Path(folder), count)
        device, fast, pillow = (our_dataset(root, backend) for backend in ('device', 'fast', 'pillow'))
        batch = load(device)
        return [
            worker_row('worker: images a core', partial(load, device), partial(load, fast), count, rounds),
            shared_row(device, fast, count, rounds),
            common.counted_row('sent to the main process', 'bytes/image', sent(batch) / count, sent(load(fast)) / count),
            *device_rows(batch, partial(load, fast), count, rounds),
            *deviation_rows(batch, {'Pillow': load(pillow), "'fast'": load(fast)}),
        ]


def worker_row(name: str, ours: Callable, theirs: Callable, count: int, rounds: int, target: str = '>= 2.2') -> Row:
    mine, other, ratio, ratios = common.compare(ours, theirs, rounds)
    return Row(name, 'images/s/core', count / mine, count / other, ratio, (ratios[0], ratios[-1]), target)


def shared_row(device, fast, count: int, rounds: int) -> Row:
    """The same where batches are written to shared memory, as in a worker process."""

    def in_worker(dataset) -> dict:
        with mock.patch.object(packed_images, 'get_worker_info', object):
            arrays = partial(transforms.MultiCrop.allocate, dataset.transform, shared=True)
            with mock.patch.object(dataset.transform, 'allocate', lambda size, shared: arrays(size)):
                return load(dataset)

    name = 'worker: images a core, into shared memory'
    return worker_row(name, partial(in_worker, device), partial(in_worker, fast), count, rounds, target='')


def sent(batch: dict) -> int:
    """Bytes of pixels."""
    return sum(value.nbytes for name, value in batch.items() if name.endswith(('_views', '_pixels', '_files')))


def device_rows(batch: dict, fast: Callable, count: int, rounds: int) -> list[Row]:
    """What the preprocessor does more than before."""
    cut = partial(with_views, batch, torch.device('cpu'))
    flops = common.count_flops(cut)
    mine, theirs, ratio, ratios = common.compare(cut, fast, min(rounds, 3))
    note = "for information: reference is all that 'fast' does in a worker"
    spread = ratios[0], ratios[-1]
    return [
        Row('cutting on the device', 'GFLOP/image', flops / count / 1e9, note=f'2 + {LOCALS} + {QUERIES} crops'),
        Row('cutting on this CPU', 'ms/image', mine / count * 1e3, theirs / count * 1e3, ratio, spread, note=note),
    ]


def deviation_rows(batch: dict, others: dict[str, dict]) -> list[Row]:
    """Crops against the same boxes by other backends.

    Raises:
        RuntimeError: They differ by more than is documented.
    """
    cut = with_views(batch, torch.device('cpu'))
    found = []
    for name, other in others.items():
        off = deviation(*([some[f'{kind}_views'] for kind in KINDS] for some in (cut, other)))
        mean, near = off.mean().item(), (off <= 1).float().mean().item()
        if mean > 0.2 or near < 0.999:
            raise RuntimeError(f'not the crops of {name}: {mean} levels off, {near:.3%} within 1')
        note = f'{near:.3%} within 1 level, worst {off.max().item():.0f}'
        found.append(Row(f'crops, deviation from {name}: mean', 'levels', mean, target='<= 0.2', note=note))
    return found


def main() -> None:
    args = common.parser(__doc__.splitlines()[0], scale=1.0).parse_args()
    args.device = 'cpu'
    for row in rows(args.scale):
        print('  '.join(common.format_row(row)))


if __name__ == '__main__':
    main()
