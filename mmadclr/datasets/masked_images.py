"""Images with a label map each, for probes of frozen features; needs none of the segmentation packages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmadclr.datasets.image_dataset import READ_ERRORS, ImageDataset
from mmadclr.registry import DATASETS, TRANSFORMS


@TRANSFORMS.register_module()
class ResizeSquare:
    """The whole image at ``size`` x ``size`` pixels (antialiased bicubic), whatever its aspect: (3, S, S) uint8."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, results: dict) -> dict:
        image = results.pop('image').resize((self.size, self.size), Image.Resampling.BICUBIC)
        results.pop('rng')
        results['images'] = torch.from_numpy(np.array(image).transpose(2, 0, 1))
        return results


@DATASETS.register_module()
class MaskedImageDataset(ImageDataset):
    """Images at a fixed size, and for each the label map of the same relative name.

    Args:
        data_root: Folder of both.
        img_dir, mask_dir: Their folders below it. Masks are 8-bit PNG files.
        size: Side in pixels that images and masks are brought to.
        num_classes: Labels are 0 to ``num_classes - 1``.
        ignore_index: Label of pixels that count nowhere.
        reduce_zero_label: 0 is no class but ignored, and labels start at 1 (ADE20K).
        max_images: Use this many images at most, evenly spread over the set.

    Raises:
        FileNotFoundError, ValueError: See ``ImageDataset``; ``mask`` raises for masks that are missing or hold other labels.
    """

    def __init__(
        self,
        data_root: str,
        img_dir: str,
        mask_dir: str,
        size: int,
        num_classes: int,
        ignore_index: int = 255,
        reduce_zero_label: bool = False,
        max_images: int | None = None,
    ) -> None:
        super().__init__(str(Path(data_root) / img_dir), dict(type='ResizeSquare', size=size))
        self.mask_root = Path(data_root) / mask_dir
        self.size, self.num_classes = size, num_classes
        self.ignore_index, self.reduce_zero_label = ignore_index, reduce_zero_label
        if max_images is not None and max_images < len(self):
            self.source.select(np.linspace(0, len(self) - 1, max_images).round().astype(int))

    def mask(self, index: int) -> Tensor:
        """Label map (S, S) int64; -1 where ignored."""
        path = (self.mask_root / self.path(index).relative_to(self.data_root)).with_suffix('.png')
        try:
            with Image.open(path) as image:
                labels = np.array(image.resize((self.size, self.size), Image.Resampling.NEAREST)).astype(np.int64)
        except READ_ERRORS as error:
            raise ValueError(f'mask {path} of {self.path(index)} cannot be read: {error}') from error
        ignored = labels == self.ignore_index
        labels = labels - int(self.reduce_zero_label)
        unknown = np.unique(labels[~ignored & ((labels >= self.num_classes) | (labels < -int(self.reduce_zero_label)))])
        if labels.ndim != 2 or len(unknown):
            raise ValueError(f'mask {path}: labels {unknown[:5].tolist()} are not among {self.num_classes} classes')
        return torch.from_numpy(np.where(ignored, -1, labels))
