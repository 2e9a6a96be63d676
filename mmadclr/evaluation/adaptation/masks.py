"""The dense probe of a folder with masks, and its pixel counts of every image, over which intervals are made.

Shape legend: M images with masks, B of a batch, n of a process, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from mmadclr.datasets.benchmarks import SegmentationBenchmark, open_benchmark
from mmadclr.datasets.labeled_images import LabeledImages
from mmadclr.datasets.listing import built_alike
from mmadclr.distributed.agreement import together
from mmadclr.evaluation.dense_probe import MAX_UNREADABLE, DenseProbe, map_confusion
from mmadclr.evaluation.feature_shards import gather_uneven
from mmadclr.evaluation.frozen import Encoder
from mmadclr.evaluation.image_account import ImageAccount
from mmadclr.evaluation.patches import patch_batches

LEAST_SCORED = 4
T = TypeVar('T')


class FolderProbe(DenseProbe):
    """The dense probe of a folder of images with masks, in the layouts of the benchmark ``folder``.

    Args:
        data_root: The folder; see ``mmadclr.datasets.benchmarks.folder``.
        size: Side in pixels to which images and masks are resized.
        max_images: Most images of each split, evenly spaced.
        batch_size, num_workers: Of the loader.

    Raises:
        FileNotFoundError, ValueError: See ``open_benchmark`` and ``DenseProbe``; fewer than four validation images.
    """

    def __init__(
        self, data_root: str, size: int, max_images: int = 1000, batch_size: int = 32, num_workers: int = 0
    ) -> None:
        opened = built_alike(partial(open_benchmark, 'folder', data_root))
        assert isinstance(opened, SegmentationBenchmark)
        if len(opened.val) < LEAST_SCORED:
            raise ValueError(
                f'{data_root}: {len(opened.val)} validation image(s) with masks, but intervals over images need at least '
                f'{LEAST_SCORED} (hundreds for a clear result): add images with masks'
            )
        parts = [LabeledImages(opened, _some(items, max_images), data_root, size) for items in (opened.train, opened.val)]
        train, val = ({'type': partial(_built, part)} for part in parts)
        super().__init__(train, val, batch_size=batch_size, num_workers=num_workers)


def _built(dataset: T, **_) -> T:
    """A data set that is built already, as the registry calls a class."""
    return dataset


def _some(items: Sequence[T], most: int) -> Sequence[T]:
    """At most so many items, evenly spaced."""
    if len(items) <= most:
        return items
    return [items[place] for place in np.linspace(0, len(items) - 1, most).round().astype(int)]


def image_counts(probe: DenseProbe, model: Encoder) -> dict[str, Tensor]:
    """Pixel counts (M, 3, C) of the readable validation images, by the name of the classifier; collective call.

    Of every class: correct, annotated and predicted pixels, all that the IoU needs. Their sums are those of which
    ``DenseProbe.of_model`` reports the mIoU.

    Args:
        probe: Trained on its training images first.
        model: Frozen, on its device.

    Raises:
        ValueError: See ``DenseProbe``.
    """
    classifiers = probe.classifiers(*probe.bank(model))
    account = ImageAccount()

    def count() -> list[tuple[Tensor, dict[str, Tensor]]]:
        batches = patch_batches(model, probe.val, probe.batch_size, probe.num_workers)
        return [(batch.indices, _counts(batch, classifiers, probe.val.num_classes)) for batch in account.over(batches)]

    parts = together(count)
    account.report(probe.val, MAX_UNREADABLE)
    order = torch.cat(gather_uneven(torch.cat([indices for indices, _ in parts]))).argsort()
    counts = {name: torch.cat([found[name] for _, found in parts]) for name in classifiers}
    return {name: torch.cat(gather_uneven(rows))[order] for name, rows in counts.items()}


def _counts(batch, classifiers, classes: int) -> dict[str, Tensor]:
    """(B, 3, C) on the CPU for every classifier."""
    features, found = batch.outputs.float(), {}
    for name, classify in classifiers.items():
        scores = classify(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        pairs = zip(scores.split(1), batch.masks.split(1), strict=True)
        each = [map_confusion(score, mask, classes).cpu() for score, mask in pairs if len(mask)]
        rows = [torch.stack((m.diag(), m.sum(dim=1), m.sum(dim=0))) for m in each]
        found[name] = torch.stack(rows) if rows else torch.zeros(0, 3, classes, dtype=torch.int64)
    return found
