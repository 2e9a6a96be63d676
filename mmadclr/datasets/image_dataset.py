"""Images from anywhere, with reproducible randomness and an account of files that cannot be read."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from mmadclr.datasets.readers import read_class_folders, read_folder, read_list
from mmadclr.datasets.shapes import write_shapes
from mmadclr.datasets.transforms import ImageTooSmallError
from mmadclr.registry import DATASETS, TRANSFORMS

# What Pillow raises for files that are truncated, no image at all, or absurdly large.
READ_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
# More failures in a row than this are no accident: looking further would only delay the message.
MAX_SUBSTITUTIONS = 100


class UnreadableImageError(RuntimeError):
    """An image could not be read, or too many could not."""


class SampleKey(NamedTuple):
    """All that a random sample depends on."""

    seed: int
    epoch: int
    index: int


@DATASETS.register_module()
class ImageDataset(Dataset):
    """Images of a folder, of class folders or of a text list; no annotation file is needed.

    Keys are ``index`` or, from ``EpochSampler``, ``SampleKey``. The transform gets a random generator seeded with all of
    the key, so a sample does not depend on the number of workers, processes or earlier samples. A file that cannot be
    read is replaced by the next one that can, and named in the sample's ``unreadable``: training
    (``UnreadableImageHook``) and evaluation (``extract_features``) log, count and limit those.

    Args:
        data_root: Folder of the images, searched at any depth.
        transform: Config of the transform, called with ``image``, ``rng``, ``index`` and, where known, ``label``.
        ann_file: Text list of paths relative to ``data_root``; all images below it by default.
        with_label: Labels from the class folders, or from the second column of the list.

    Raises:
        FileNotFoundError, ValueError: See the readers.
        UnreadableImageError: From ``dataset[key]``, if ``MAX_SUBSTITUTIONS`` images in a row cannot be read.
    """

    def __init__(
        self,
        data_root: str,
        transform: dict,
        ann_file: str | None = None,
        with_label: bool = False,
    ) -> None:
        self.data_root = Path(data_root)
        if ann_file is not None:
            listing = read_list(ann_file, data_root, with_label)
        else:
            listing = read_class_folders(data_root) if with_label else read_folder(data_root)
        # One array of bytes, not a million strings: workers share its memory instead of copying reference counts.
        self._paths = np.array([os.fsencode(path) for path in listing.paths])
        self.labels = None if listing.labels is None else np.array(listing.labels)
        self.metainfo = dict(classes=listing.classes)
        self.transform = TRANSFORMS.build(transform)

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, index: int) -> Path:
        return self.data_root / os.fsdecode(bytes(self._paths[index]))

    def __getitem__(self, key: int | SampleKey) -> dict:
        seed, epoch, index = key if isinstance(key, tuple) else (0, 0, key)
        if not 0 <= index < len(self):
            raise IndexError(f'image {index} of {len(self)}')
        unreadable = []
        for offset in range(min(len(self), MAX_SUBSTITUTIONS)):
            try:
                sample = self._sample(SampleKey(seed, epoch, (index + offset) % len(self)))
            except UnreadableImageError as error:
                unreadable.append(str(error))
            else:
                return {**sample, 'unreadable': unreadable}
        raise UnreadableImageError(
            f'{len(unreadable)} images in a row of {len(self)} below {self.data_root} cannot be read, '
            f'the first: {unreadable[0]}'
        )

    def _sample(self, key: SampleKey) -> dict:
        path = self.path(key.index)
        results = {'index': key.index, 'rng': np.random.default_rng(key)}
        if self.labels is not None:
            results['label'] = int(self.labels[key.index])
        try:
            results['image'] = load_rgb(path)
        except READ_ERRORS as error:
            raise UnreadableImageError(f'{path}: {error or type(error).__name__}') from error
        try:
            return self.transform(results)
        except ImageTooSmallError as error:
            raise UnreadableImageError(f'{path}: {error}') from error


@DATASETS.register_module()
class ShapesDataset(ImageDataset):
    """The generated set of :mod:`mmadclr.datasets.shapes`, drawn on first use.

    Args:
        data_root: Folder of the set, shared by its splits.
        split: ``'train'`` or ``'val'``.
        num_train, num_val, image_size, draw_seed: What to draw; see ``write_shapes``.
        **kwargs: See ``ImageDataset``.
    """

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


def load_rgb(path: str | Path) -> Image.Image:
    """Decodes an image file to 8-bit RGB; 16-bit grey levels are scaled, not cut off at 255.

    Raises:
        OSError, SyntaxError, ValueError: The file is no image, cut off, or of floating-point pixels.
    """
    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter('ignore')  # palette transparency, odd EXIF blocks: the pixels are fine
        image.load()
        if image.mode == 'F':
            raise ValueError('floating-point pixels have no known range: convert the file to 8 or 16 bits')
        if image.mode.startswith('I;16') or image.mode == 'I':
            levels = np.asarray(image).astype(np.int64)
            image = Image.fromarray((levels.clip(0, 65535) >> 8).astype(np.uint8))
        return image.convert('RGB')
