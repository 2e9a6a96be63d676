"""Cheap protocols of the dense suite as evaluators during pretraining, on the teacher's patch features."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from mmengine import dist
from mmengine.logging import print_log
from torch import nn

from mmadclr.datasets.benchmarks import open_benchmark
from mmadclr.datasets.benchmarks.types import SegmentationBenchmark
from mmadclr.datasets.listing import built_alike
from mmadclr.evaluation.frozen import Encoder, frozen
from mmadclr.evaluation.suite.encoder import ModelEncoder
from mmadclr.evaluation.suite.outcomes import Outcome
from mmadclr.evaluation.suite.passes import Loading
from mmadclr.evaluation.suite.plan import check_counts
from mmadclr.evaluation.suite.segmentation import hummingbird, patch_knn
from mmadclr.evaluation.suite.settings import build_settings, metric_base
from mmadclr.evaluation.suite.source import Source
from mmadclr.registry import METRICS

ZEROS, PIXEL = (0.0, 0.0, 0.0), (1 / 255,) * 3  # pixel values from 0 to 255, which the model normalizes
T = TypeVar('T')


class DenseEvaluator(ABC):
    """A protocol on a segmentation benchmark; features and label maps stay in memory.

    Args:
        protocol: Its name.
        data_root: See ``open_benchmark``.
        benchmark: Name of a segmentation benchmark.
        max_images: Largest number of images of each split, evenly spaced; None for all.
        batch_size, num_workers: Of the loader.
        settings: Of the protocol; ``mean`` and ``std`` are those of the model.

    Raises:
        FileNotFoundError, ValueError: See ``open_benchmark``; another kind of benchmark, or invalid settings.
    """

    def __init__(
        self,
        protocol: str,
        data_root: str,
        benchmark: str,
        max_images: int | None,
        batch_size: int,
        num_workers: int,
        settings: dict[str, Any],
    ) -> None:
        opened = built_alike(lambda: open_benchmark(benchmark, data_root))
        if not isinstance(opened, SegmentationBenchmark):
            raise ValueError(f'benchmark={benchmark!r} must be one for segmentation')
        self.benchmark = opened._replace(train=some_of(opened.train, max_images), val=some_of(opened.val, max_images))
        self.protocol, self.loading = protocol, Loading(batch_size, num_workers)
        self.noted: set[str] = set()  # said once, not in every validation
        self.named = build_settings([protocol], {f'{protocol}.{key}': value for key, value in settings.items()})[protocol]

    def of_model(self, model: nn.Module) -> dict[str, float]:
        """Metrics in percent.

        Raises:
            ValueError: The size is not a multiple of the patch size of the model; more neighbors than patches.
        """
        with frozen(model) as encoder:
            patch, width, device = probe(encoder, self.named.size)
            check_counts(self.protocol, self.named, self.benchmark, patch)
            settings = replace(self.named, mean=ZEROS, std=PIXEL)
            outcome = self.run(Source(self.benchmark, ModelEncoder(encoder, patch, width, device), self.loading), settings)
        for note in () if outcome is None else outcome.notes:
            if note not in self.noted and dist.is_main_process():
                self.noted.add(note)
                print_log(f'{self.benchmark.name} {self.protocol}: {note}', 'current', logging.WARNING)
        sent = [None if outcome is None else outcome.metrics]
        dist.broadcast_object_list(sent)
        before, after = metric_base(self.protocol, settings), metric_base(self.protocol, self.named)
        return {name.replace(before, after): value for name, value in (sent[0] or {}).items()}

    @abstractmethod
    def run(self, source: Source, settings: Any) -> Outcome | None:
        """The protocol; None on processes without result."""


@METRICS.register_module()
class Hummingbird(DenseEvaluator):
    """In-context segmentation, see ``mmadclr.evaluation.dense.hummingbird``: ``hummingbird30_224_mem2.048e4..._mIoU``.

    By default without augmentation and with a small bank, so that it takes little time.

    Args:
        data_root: Folder of the benchmark, as in ``mmadclr dense``.
        benchmark: Name of a segmentation benchmark, ``'folder'`` for images and masks in folders.
        size: Of the square input in pixels.
        k, memory, epochs, augment, matching: See ``suite.settings.Hummingbird``.
        max_images: Largest number of images of each split, evenly spaced; None for all.
        batch_size, num_workers: Of the loader.
    """

    def __init__(
        self,
        data_root: str,
        benchmark: str = 'folder',
        size: int = 224,
        k: int = 30,
        memory: int = 20_480,
        epochs: int = 1,
        augment: bool = False,
        matching: str = 'none',
        max_images: int | None = 1000,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        settings = dict(size=size, k=k, memory=memory, epochs=epochs, augment=augment, matching=matching)
        super().__init__('hummingbird', data_root, benchmark, max_images, batch_size, num_workers, settings)

    def run(self, source: Source, settings: Any) -> Outcome:
        return hummingbird(source, settings)


@METRICS.register_module()
class PatchKNN(DenseEvaluator):
    """Segmentation by k-NN over patches, see ``mmadclr.evaluation.dense.patch_knn``: ``patch_knn_224_k=..._mIoU``.

    Several values of ``k`` and ``distance`` need at least ten training images, of which a tenth is held out to choose.

    Args:
        data_root, benchmark, size, max_images, batch_size, num_workers: See :class:`Hummingbird`.
        k, distance: Values to choose from.
    """

    def __init__(
        self,
        data_root: str,
        benchmark: str = 'folder',
        size: int = 224,
        k: int | Sequence[int] = 10,
        distance: str | Sequence[str] = 'cosine',
        max_images: int | None = 1000,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        settings = dict(size=size, k=k, distance=distance)
        super().__init__('patch-knn', data_root, benchmark, max_images, batch_size, num_workers, settings)

    def run(self, source: Source, settings: Any) -> Outcome | None:
        return patch_knn(source, settings)


def some_of(items: Sequence[T], most: int | None) -> Sequence[T]:
    """At most some items, evenly spaced."""
    if most is None or len(items) <= most:
        return items
    return [items[int(place)] for place in np.linspace(0, len(items) - 1, most).round()]


def probe(model: Encoder, size: int) -> tuple[int, int, torch.device]:
    """Patch size, width and device of a model, from a black image.

    Raises:
        ValueError: ``size`` is not a multiple of the patch size.
    """
    data = model.data_preprocessor({'images': torch.zeros(1, 3, size, size)}, False)
    patches = model(**data, mode='patches')
    side = round(patches.shape[1] ** 0.5)
    if side * side != patches.shape[1] or size % side:
        raise ValueError(f'size={size} must be a multiple of the patch size of the model')
    return size // side, patches.shape[2], patches.device
