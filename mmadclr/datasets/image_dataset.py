"""Image data sets with reproducible randomness and reporting of unreadable files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset, get_worker_info

from mmadclr.annotations import MaybeNone
from mmadclr.config.components import Place
from mmadclr.config.findings import Finding
from mmadclr.datasets.any_image import rgb_of_array
from mmadclr.datasets.conflicts import path_conflicts
from mmadclr.datasets.decoding import (
    READ_ERRORS,
    DecodeError,
    EncodedImage,
    load_rgb,
    read_by_pillow,
    use_one_thread,
    warn_without_simplejpeg,
)
from mmadclr.datasets.loading import SampleList
from mmadclr.datasets.own_sources import build_source, check_one_place, described, read_from, source_conflicts
from mmadclr.datasets.packed_images import PackedSamples
from mmadclr.datasets.pixels import pixel_options
from mmadclr.datasets.remote import StoreError
from mmadclr.datasets.samplers import SampleKey
from mmadclr.datasets.shapes import write_shapes
from mmadclr.datasets.sources import FileSource, Source, find_source
from mmadclr.datasets.transforms import ImageTooSmallError
from mmadclr.names import printable
from mmadclr.registry import DATASETS, TRANSFORMS
from mmadclr.urls import is_url, shown

__all__ = ['READ_ERRORS', 'ImageDataset', 'SampleKey', 'ShapesDataset', 'UnreadableImageError', 'load_rgb']

# More consecutive failures indicate a systematic problem; further attempts would only delay the error.
MAX_SUBSTITUTIONS = 100


class UnreadableImageError(RuntimeError):
    """An image could not be read, or too many could not."""


@DATASETS.register_module()
class ImageDataset(Dataset):
    """Images from a folder, class folders, a text list, tar shards or a custom source; requires no annotation file.

    Keys are ``index`` or, from the samplers of :mod:`mmadclr.datasets.samplers`, ``SampleKey``. The transform gets a random
    generator seeded with the full key, so samples do not depend on the number of workers, processes or earlier samples;
    it gets none if it has ``needs_rng = False``.
    An unreadable file is replaced by the next readable one, and named in the sample's ``unreadable``: training
    (``UnreadableImageHook``) and evaluation (``ImageAccount``) log, count and limit these. ``fallbacks`` lists files
    that needed a slower decoder, ``lost`` information not in the 8-bit RGB pixels, as pairs of kind and file.

    Args:
        data_root: Folder of the images, searched recursively, or of the shards; for shards also a URL for fsspec (``s3://``,
            ``gs://``, ``https://``), see :mod:`mmadclr.datasets.shard_cache`. None with ``source``.
        transform: Config of the transform, called with ``image``, ``rng``, ``index`` and, if known, ``label``.
        ann_file: Text list of paths relative to ``data_root``; by default all images in it.
        with_label: Read labels from the class folders, the second column of the list, the shards or the source.
        shards: Tar files in webdataset's layout: a glob (``'*.tar'``), a range (``'train-{000000..000146}.tar'``) or a
            list of these.
        value_range, bands, max_pixels: Interpretation of pixels; see :class:`mmadclr.datasets.pixels.PixelOptions`.
        source: A ``Source``, or the config of a class in ``IMAGE_SOURCES``; see docs/add_a_data_set.md.

    Raises:
        FileNotFoundError, ValueError: See the readers, ``build_source`` and ``pixel_options``.
        UnreadableImageError: From ``dataset[key]``, if ``MAX_SUBSTITUTIONS`` consecutive images cannot be read.
        StoreError: From both, if an object store fails, changes, or its shards cannot be cached.
    """

    draws_images = False  # whether the class generates missing images itself

    def __init__(
        self,
        data_root: str | None = None,
        transform: dict | None = None,
        ann_file: str | None = None,
        with_label: bool = False,
        shards: str | Sequence[str] | None = None,
        value_range: tuple[float, float] | None = None,
        bands: tuple[int, int, int] | None = None,
        max_pixels: int | None = None,
        source: Mapping | Source | None = None,
    ) -> None:
        self.pixels, self.with_label = pixel_options(value_range, bands, max_pixels), with_label
        if transform is None:
            raise ValueError(
                'transform of the data set is missing: set MultiCrop for training, ResizeCenterCrop for evaluation'
            )
        check_one_place(data_root, ann_file, shards, source)
        self.data_root: str | Path
        self.source: Source
        if source is not None:
            self.data_root, self.source = described(source), build_source(source, with_label)
        elif data_root is not None:
            self.data_root = shown(data_root) if is_url(data_root) else Path(data_root)
            self.source = find_source(data_root, ann_file, with_label, shards)
        self.transform = TRANSFORMS.build(transform)
        self._decodes_late = getattr(self.transform, 'backend', 'pillow') in ('fast', 'device')
        self._needs_rng = getattr(self.transform, 'needs_rng', True)  # creating one takes time
        if self._decodes_late:
            warn_without_simplejpeg()

    @classmethod
    def find_conflicts(cls, place: Place) -> Iterator[Finding]:
        """Missing folders and lists, and images from two places."""
        yield from path_conflicts(place)
        yield from source_conflicts(place)

    @property
    def labels(self) -> np.ndarray | MaybeNone:
        return self.source.labels if self.with_label else None

    @property
    def metainfo(self) -> dict:
        return dict(classes=tuple(map(str, self.source.classes)))

    def __len__(self) -> int:
        return len(self.source)

    def path(self, index: int) -> Path:
        """Path of an image.

        Raises:
            ValueError: It is in a tar shard.
        """
        if not isinstance(self.source, FileSource):
            raise ValueError(f'{self.source.name(index)} is not a separate file: this requires a data set without shards')
        return self.source.path(index)

    def __getitem__(self, key: int | SampleKey) -> dict:
        return self._sample(key)

    def __getitems__(self, keys: Sequence[int | SampleKey]) -> list[dict]:
        """The samples of a batch, as requested by ``DataLoader``.

        If the transform can write into arrays for the full batch (``allocate``), pixels are slices of those; if it
        leaves cropping to the device, images are slices of one array.
        """
        in_worker = get_worker_info() is not None
        if in_worker:
            use_one_thread()
        if getattr(self.transform, 'backend', None) == 'device':
            arena = self.transform.arena
            arena.begin()
            samples = [self._sample(key, out=arena) for key in keys]
            return PackedSamples(samples, arena.kept())
        if not hasattr(self.transform, 'allocate'):
            return [self._sample(key) for key in keys]
        arrays = self.transform.allocate(len(keys), shared=in_worker)
        rows = ({kind: array[row] for kind, array in arrays.items()} for row in range(len(keys)))
        return SampleList((self._sample(key, out=row) for key, row in zip(keys, rows, strict=True)), arrays)

    def _sample(self, key: int | SampleKey, **kwargs) -> dict:
        """The sample of a key, or of the next readable image; ``kwargs`` are passed to the transform."""
        seed, epoch, index = key if isinstance(key, tuple) else (0, 0, key)
        if not 0 <= index < len(self):
            raise IndexError(f'index {index} is out of range for {len(self)} images')
        unreadable = []
        for offset in range(min(len(self), MAX_SUBSTITUTIONS)):
            try:
                sample = self._read(SampleKey(seed, epoch, (index + offset) % len(self)), **kwargs)
            except UnreadableImageError as error:
                unreadable.append(str(error))
            else:
                return {**sample, 'unreadable': unreadable}
        raise UnreadableImageError(
            f'{len(unreadable)} consecutive images of {len(self)} in {printable(self.data_root)} cannot be read; '
            f'the first: {unreadable[0]}'
        )

    def _read(self, key: SampleKey, **kwargs) -> dict:
        results: dict[str, Any] = {'index': key.index, 'epoch': key.epoch}
        if self._needs_rng:
            results['rng'] = np.random.default_rng(tuple(key))
        if self.labels is not None:
            results['label'] = int(self.labels[key.index])
        name = printable(self.source.name(key.index))
        try:
            image, lost = self._open(read_from(self.source, key.index), name)
            results = self.transform({**results, 'image': image}, **kwargs)
        except StoreError:
            raise  # the image is not damaged, so it must not be replaced
        except (OSError, DecodeError, ImageTooSmallError) as error:
            raise UnreadableImageError(f'{name}: {printable(str(error))}') from error
        fallbacks, lost = (image.fallbacks, image.lost) if isinstance(image, EncodedImage) else ([], lost)
        return {**results, 'fallbacks': fallbacks, 'lost': [(loss, name) for loss in lost]}

    def _open(self, data: bytes | np.ndarray, name: str) -> tuple[Image.Image | EncodedImage, list[str]]:
        """The image in the form that the transform accepts, and what was lost so far."""
        if isinstance(data, np.ndarray):
            return rgb_of_array(data, self.pixels)
        return (EncodedImage(data, name, self.pixels), []) if self._decodes_late else read_by_pillow(data, self.pixels)


@DATASETS.register_module()
class ShapesDataset(ImageDataset):
    """The generated set of :mod:`mmadclr.datasets.shapes`, drawn on first use.

    Args:
        data_root: Folder of the set, shared by its splits.
        split: ``'train'`` or ``'val'``.
        num_train, num_val, image_size, draw_seed: What to draw; see ``write_shapes``.
        **kwargs: See ``ImageDataset``.
    """

    draws_images = True

    def __init__(
        self,
        data_root: str,
        split: str,
        num_train: int = 3000,
        num_val: int = 1000,
        image_size: int = 64,
        draw_seed: int = 0,
        **kwargs,
    ) -> None:
        write_shapes(data_root, num_train, num_val, image_size, draw_seed)
        super().__init__(str(Path(data_root) / split), **kwargs)
