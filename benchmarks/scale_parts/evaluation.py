"""Evaluations in bounded memory: labels of patches, a dense probe at the size of ADE20K, banks of k-NN over processes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common
import numpy as np
import torch
import torch.nn.functional as F
from common import Row
from torch import Tensor, nn

from mmadclr.datasets import MaskedImageDataset
from mmadclr.evaluation.dense_probe import DenseProbe
from mmadclr.evaluation.feature_shards import Shard, share
from mmadclr.evaluation.knn import WeightedKNN
from mmadclr.evaluation.patches import patch_labels
from mmadclr.models.preprocessors import ViewPreprocessor

CLASSES, CHANNELS, SIDE, PATCH = 150, 768, 512, 16
ADE = (20_210, 2_000)  # training and validation images
MIB = 2**20


def pooled_labels(masks: Tensor, grid: tuple[int, int], num_classes: int) -> tuple[Tensor, Tensor]:
    """The former form: one channel a class, pooled."""
    valid = (masks >= 0).float()[:, None]
    one_hot = F.one_hot(masks.clamp(min=0), num_classes).permute(0, 3, 1, 2) * valid
    shares, covered = (F.adaptive_avg_pool2d(x.float(), grid).flatten(2).transpose(1, 2) for x in (one_hot, valid))
    return shares / covered.clamp(min=1e-12), covered[..., 0]


def label_rows(rounds: int) -> list[Row]:
    """Both forms in turn, on masks of one image in blocks of a patch and a half."""
    rows = []
    for side in (224, SIDE):
        cells = torch.randint(
            -1, CLASSES, (1, 1, side // 24 + 1, side // 24 + 1), generator=torch.Generator().manual_seed(0)
        )
        masks = F.interpolate(cells.float(), size=(side, side))[0].long()
        forms = (partial(form, masks, (side // PATCH,) * 2, CLASSES) for form in (patch_labels, pooled_labels))
        rows.append(common.timed_row(f'labels of patches, {side} px, {CLASSES} classes', *forms, rounds))
    return rows


class Generated(MaskedImageDataset):
    """As many images as asked for, made on the fly."""

    transform = None

    def __init__(self, count: int, size: int = SIDE, num_classes: int = CLASSES, with_mask: bool = True) -> None:
        self.count, self.size, self.num_classes, self.with_mask = count, size, num_classes, with_mask
        self.data_root = self.mask_root = 'generated'
        self.ignore_index, self.reduce_zero_label = 255, False
        self.image = torch.zeros(3, size, size, dtype=torch.uint8)
        self.labels_of_all = torch.arange(size * size).view(size, size) // (size * PATCH) % num_classes

    def __len__(self) -> int:
        return self.count

    def mask(self, index: int) -> Tensor:
        return self.labels_of_all.add(index) % self.num_classes

    def label_counts(self, index: int) -> dict[int, int]:
        return {index % self.num_classes: 1, (index + 1) % self.num_classes: 1}

    def _sample(self, key: int) -> dict:
        mask = self.mask(key).short()
        return dict(images=self.image, index=key, mask=mask, unreadable=[], lost=[])


class StandIn(nn.Module):
    """Features of the right size, all of them equal."""

    def __init__(self) -> None:
        super().__init__()
        self.data_preprocessor, self.direction = ViewPreprocessor(), torch.randn(CHANNELS)

    def forward(self, images: Tensor, mode: str) -> Tensor:
        return torch.ones(len(images), (images.shape[-1] // PATCH) ** 2, 1) * self.direction


def products(*_: object) -> dict:
    """In place of both classifiers, which take hours on a CPU: scores of the same sizes."""
    weight = torch.randn(CHANNELS, CLASSES)
    return {name: lambda x: x @ weight for name in ('patch_knn', 'patch_linear')}


def held_mib(train: int, val: int) -> float:
    """Of the features of all images in single precision, computed."""
    return (train + val) * (SIDE // PATCH) ** 2 * CHANNELS * 4 / MIB


def probe_alone(train: int, val: int, bank_size: int, with_search: bool) -> dict[str, float]:
    """Peak memory of this process, in MiB, before and after a probe."""
    probe = DenseProbe(dict(type=Generated, count=train), dict(count=val), batch_size=8, steps=10, bank_size=bank_size)
    if not with_search:
        probe.classifiers = products
    model = StandIn()
    before = peak()
    probe.of_model(model)
    return dict(before=before, after=peak())


def peak() -> float:
    """MiB this process had at most; ``ru_maxrss`` would start from what the process had that started this one."""
    status = Path('/proc/self/status')
    if status.exists():
        return int(status.read_text().partition('VmHWM:')[2].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes, on a Mac


def bank_alone(images: int, dim: int) -> dict[str, float]:
    """Features of a k-NN bank in this process, in MiB, and its peak over a search for a few queries."""
    mine = torch.from_numpy(share(np.arange(images)))
    labels = torch.arange(images) % 1000
    before = peak()
    bank = Shard(torch.randn(len(mine), dim), mine, labels)
    own = torch.from_numpy(share(np.arange(256)))
    WeightedKNN(20).of_shards(bank, Shard(bank.features[: len(own)], own, labels[:256]))
    return dict(held=bank.features.nbytes / MIB, grown=peak() - before)


def in_processes(world: int, name: str, *numbers: int) -> list[dict[str, float]]:
    """Results of a function of this module with whole numbers, called in new processes."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={world}'] if world > 1 else []
        command = [sys.executable, *launcher, __file__, folder, name, *map(str, numbers)]
        # With this, what is freed goes back at once: peaks are of what lives, without the fragments of an allocator.
        threshold = dict(MALLOC_MMAP_THRESHOLD_=str(MIB))
        environment = os.environ | dict(CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1') | threshold
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f'{name} in {world} processes: {done.stderr[-3000:]}')
        return [json.loads(Path(folder, f'{rank}.json').read_text()) for rank in range(world)]


def probe_rows(scale: float) -> list[Row]:
    """Peaks at several numbers of images, the slope between them, and all of ADE20K at it."""
    bank = max(10, round(20_000 * scale))
    sizes = [(max(2, round(train * scale)), 8) for train in (63, 253, 1010)]
    peaks = [in_processes(1, 'probe_alone', *size, bank, 0)[0]['after'] for size in sizes]
    found = [
        Row(f'peak of a dense probe, {sum(size):,} images', 'MiB', most, held_mib(*size), target='<= 2048')
        for size, most in zip(sizes, peaks, strict=True)
    ]
    images = [sum(size) for size in sizes]
    slope = float(np.polyfit(images, peaks, 1)[0])
    note = 'reference: features of all images, held'
    found.append(Row('growth of that peak', 'MiB an image', slope, held_mib(1, 0), note=note))
    whole = in_processes(1, 'probe_alone', *sizes[0], bank, 1)[0]['after']
    # All patches are put in order by 8-byte numbers once: what is known to grow, and not seen among fewer images.
    ordered = ADE[0] * (SIDE // PATCH) ** 2 * 8 / MIB
    total = whole + max(0.0, slope) * (sum(ADE) - images[0]) + ordered
    note = 'computed: peak with both classifiers, the growth above, and 8 bytes a patch'
    name = f'peak of a dense probe, {sum(ADE):,} images'
    return [*found, Row(name, 'MiB', total, held_mib(*ADE), target='<= 2048', note=note)]


def bank_rows(scale: float) -> list[Row]:
    """What each process holds of a bank, with one and with two."""
    images, dim = max(512, round(200_000 * scale)), 384
    whole = images * dim * 4 / MIB
    rows = []
    for world in (1, 2):
        found = in_processes(world, 'bank_alone', images, dim)
        held, grown = (max(each[key] for each in found) for key in ('held', 'grown'))
        name = f'bank of {images:,} x {dim} features, {world} process' + 'es' * (world > 1)
        note = f'peak over a search {grown:,.0f} MiB; reference: all of them on every process'
        rows.append(common.counted_row(f'{name}, held by each', 'MiB', held, whole, note=note))
    return rows


def rows(scale: float = 1.0) -> list[Row]:
    """Figures; ``scale`` below 1 shrinks numbers of images, features and rounds."""
    return [*label_rows(max(1, round(9 * scale))), *probe_rows(scale), *bank_rows(scale)]


def main(folder: str, name: str, *numbers: str) -> None:
    """One process: what a function of this module returns, as a file of the folder."""
    if 'RANK' in os.environ:
        torch.distributed.init_process_group('gloo')
    found = {'probe_alone': probe_alone, 'bank_alone': bank_alone}[name](*map(int, numbers))
    Path(folder, f'{os.environ.get("RANK", 0)}.json').write_text(json.dumps(found))


if __name__ == '__main__':
    if len(sys.argv) > 1:
        main(*sys.argv[1:])
    else:
        args = common.parser(__doc__, scale=1.0).parse_args([])
        common.report('scale_evaluation', rows(), args)
