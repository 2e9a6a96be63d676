"""Images with label maps that a reader of benchmarks has listed, as data set of a dense probe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mmadclr.datasets.benchmarks.types import VOID, LabeledImage, SegmentationBenchmark
from mmadclr.datasets.byte_strings import ByteStrings
from mmadclr.datasets.image_dataset import ImageDataset
from mmadclr.datasets.masked_images import MaskedImageDataset
from mmadclr.datasets.readers import Listing
from mmadclr.datasets.sources import FileSource


class LabeledImages(MaskedImageDataset):
    """Images of a benchmark with their label maps, resized to squares.

    Args:
        benchmark: Its classes, and how its label maps are read.
        items: Images of one of its splits.
        root: Folder of the benchmark.
        size: Side in pixels.

    Raises:
        LabelMapError: From ``mask``; see ``SegmentationBenchmark.read_labels``.
    """

    def __init__(self, benchmark: SegmentationBenchmark, items: Sequence[LabeledImage], root: str, size: int) -> None:
        paths = ByteStrings.of([os.fsencode(os.path.relpath(item.image, root)) for item in items])
        ImageDataset.__init__(self, transform=dict(type='ResizeSquare', size=size), source=FileSource(root, Listing(paths)))
        self.benchmark, self.items = benchmark, items
        self.data_root, self.mask_root = Path(root), Path(os.path.commonpath([Path(item.mask).parent for item in items]))
        self.size, self.num_classes, self.with_mask = size, len(benchmark.classes), True
        self.ignore_index, self.reduce_zero_label = VOID, False

    def _labels(self, index: int) -> np.ndarray:
        """Classes (S, S), 255 where ignored."""
        labels = Image.fromarray(self.benchmark.read_labels(self.items[index]))
        return np.array(labels.resize((self.size, self.size), Image.Resampling.NEAREST))

    def _mask_path(self, index: int) -> Path:
        return Path(self.items[index].mask)
