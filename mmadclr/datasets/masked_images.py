"""Images with label maps for probes of frozen features; requires no segmentation package."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import print_log
from PIL import Image
from torch import Tensor

from mmadclr.datasets.center_crop import CropFilter, check_backend
from mmadclr.datasets.decoding import EncodedImage, Scratch
from mmadclr.datasets.image_dataset import ImageDataset
from mmadclr.datasets.label_maps import (
    LabelMapError,
    absent_classes,
    classes_among,
    count_labels,
    meanings,
    open_label_map,
    size_as_displayed,
    too_few_classes,
)
from mmadclr.datasets.samplers import SampleKey
from mmadclr.datasets.sources import FileSource
from mmadclr.registry import DATASETS, TRANSFORMS


@TRANSFORMS.register_module()
class ResizeSquare:
    """The full image at ``size`` x ``size`` pixels (antialiased bicubic), ignoring its aspect ratio: (3, S, S) uint8.

    Args:
        size: S.
        backend: As for :class:`mmadclr.datasets.center_crop.ResizeCenterCrop`. Images taller than wide are always resized
            by Pillow: recent versions of it process some of them in another order.

    Raises:
        ValueError: Unknown backend.
    """

    needs_rng = False

    def __init__(self, size: int, backend: str = 'fast') -> None:
        self.size, self.backend = size, check_backend(backend)
        self._decoded, self._filter = Scratch(), CropFilter()

    def __call__(self, results: dict) -> dict:
        image, size = results.pop('image'), (self.size, self.size)
        results.pop('rng', None)
        if isinstance(image, EncodedImage):
            image = Image.fromarray(image.decode(1, self._decoded))
        if self.backend == 'pillow' or image.size[1] > image.size[0]:
            pixels = np.array(image.resize(size, Image.Resampling.BICUBIC))
        else:
            pixels = self._filter(np.array(image), size, (0, 0, *size)).copy()
        results['images'] = torch.from_numpy(pixels.transpose(2, 0, 1))
        return results


@DATASETS.register_module()
class MaskedImageDataset(ImageDataset):
    """Images at a fixed size, each with the label map of the same relative name.

    Args:
        data_root: Folder of both.
        img_dir, mask_dir: Subfolders. Masks are single-channel PNG files (gray values, palette indices or
            bits) of the same size as the displayed image, that is after EXIF rotation.
        size: Side in pixels to which images and masks are resized.
        num_classes: Labels are 0 to ``num_classes - 1``.
        ignore_index: Label of ignored pixels.
        reduce_zero_label: 0 is ignored rather than a class, and labels start at 1 (ADE20K).
        max_images: Maximum number of images, evenly spaced over the set.
        value_range, bands, max_pixels: Of the images; see :class:`mmadclr.datasets.pixels.PixelOptions`.
        with_mask: Include the label map in samples, so that loader workers read it: ``mask`` (S, S), 16-bit
            integers (32-bit for more than 32,767 classes), -1 where ignored.
        backend: How images are decoded and resized; see ``ResizeSquare``.

    Raises:
        FileNotFoundError, ValueError: See ``ImageDataset``; ``mask`` raises for masks that are missing, differ in size
            from their image, or have other labels.
    """

    source: FileSource

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
        value_range: tuple[float, float] | None = None,
        bands: tuple[int, int, int] | None = None,
        max_pixels: int | None = None,
        with_mask: bool = False,
        backend: str = 'fast',
    ) -> None:
        super().__init__(
            str(Path(data_root) / img_dir),
            dict(type='ResizeSquare', size=size, backend=backend),
            value_range=value_range,
            bands=bands,
            max_pixels=max_pixels,
        )
        self.mask_root = Path(data_root) / mask_dir
        self.size, self.num_classes = size, num_classes
        self.ignore_index, self.reduce_zero_label = ignore_index, reduce_zero_label
        self.with_mask = with_mask
        if max_images is not None and max_images < len(self):
            self.source.select(np.linspace(0, len(self) - 1, max_images).round().astype(int))

    @property
    def meanings(self) -> dict[int, int]:
        """Maps labels in the files to classes, or -1."""
        return meanings(self.num_classes, self.ignore_index, self.reduce_zero_label)

    def mask(self, index: int) -> Tensor:
        """Label map (S, S) int64; -1 where ignored.

        Raises:
            LabelMapError: It is missing, not a label map, differs in size from the displayed image, or has an unknown label.
        """
        return torch.from_numpy(self._classes(self._labels(index), index))

    def _labels(self, index: int) -> np.ndarray:
        """Labels as stored in the file, (S, S)."""
        image_path = self.path(index)
        label_map, size = open_label_map(self._mask_path(index), str(image_path)), size_as_displayed(image_path)
        if size not in (None, label_map.size):  # unreadable images are reported when loaded
            (w, h), (width, height) = label_map.size, size
            raise LabelMapError(
                f'mask {self._mask_path(index)} has {w}x{h} pixels, but its image {image_path} '
                f'has {width}x{height} as displayed'
            )
        return np.array(label_map.resize((self.size, self.size), Image.Resampling.NEAREST))

    def _mask_path(self, index: int) -> Path:
        return (self.mask_root / self.path(index).relative_to(self.data_root)).with_suffix('.png')

    def _classes(self, labels: np.ndarray, index: int) -> np.ndarray:
        """Labels as stored in the file -> classes, -1 where ignored; (S, S) int64."""
        meaning = self.meanings
        values, places = np.unique(labels, return_inverse=True)
        unknown = [int(value) for value in values if int(value) not in meaning]
        if unknown:
            raise LabelMapError(
                f'mask {self._mask_path(index)}: labels {unknown[:5]} are not among the {self.num_classes} classes; set '
                'num_classes, ignore_index or reduce_zero_label to match the masks'
            )
        classes = np.array([meaning[int(value)] for value in values], dtype=np.int64)
        return classes[places].reshape(labels.shape)

    def label_counts(self, index: int) -> dict[int, int]:
        """Pixels of every label of a mask, as stored in the file.

        Raises:
            LabelMapError: See ``mask``.
        """
        labels = self._labels(index)
        self._classes(labels, index)
        return count_labels(labels)

    def check_classes(self, counts: Mapping[int, int] | None = None) -> set[int]:
        """The classes that occur in the masks; warns about those that do not.

        Args:
            counts: Pixels of every label, over all masks; read from the masks if not given.

        Raises:
            ValueError: Fewer than two classes occur, or see ``mask``.
        """
        if counts is None:
            counts = Counter()
            for index in range(len(self)):
                counts.update(self.label_counts(index))
        where = str(self.mask_root)
        problem = too_few_classes(counts, self.meanings, where)
        if problem:
            raise ValueError(problem)
        present = classes_among(counts, self.meanings)
        remark = absent_classes(present, [str(label) for label in range(self.num_classes)], where, f'{len(self)} masks')
        if remark:
            print_log(remark, 'current', logging.WARNING)
        return present

    def _read(self, key: SampleKey, **kwargs) -> dict:
        sample = super()._read(key, **kwargs)
        if self.with_mask:
            small = self.num_classes <= torch.iinfo(torch.int16).max
            sample['mask'] = self.mask(key.index).to(torch.int16 if small else torch.int32)
        return sample
