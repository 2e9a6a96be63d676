"""Pictures to look at: files and folders as a user names them, upright, at any size."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mmadclr.datasets.decoding import READ_ERRORS, load_rgb, said
from mmadclr.datasets.walking import report, walk
from mmadclr.names import printable

EIGHT_BIT = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'RGBX', 'CMYK', 'YCbCr')
Item = TypeVar('Item')
ImageLike = str | os.PathLike | Image.Image


class Picture(NamedTuple):
    """``source``: a file, or an image in memory. ``name``: short, different for each picture of a set. ``size``: pixels of
    the longer side.
    """

    source: Path | Image.Image
    name: str
    size: int

    def resized(self, multiple: int = 1) -> Image.Image:
        """Upright RGB image, its longer side near ``size``, both sides multiples of ``multiple``, resized once (bicubic).

        Raises:
            ValueError: The file cannot be read, or the image in memory has more than 8 bits.
        """
        image = read(self.source, self.name)
        return image.resize(fitted_size(image.size, self.size, multiple), Image.Resampling.BICUBIC)


def fitted_size(size: tuple[int, int], longest: int, multiple: int) -> tuple[int, int]:
    """(width, height) with the aspect of ``size``, as far as sides that are positive multiples allow.

    The longer side is the multiple nearest to ``longest``.
    """
    scale = longest / max(size)
    width, height = (max(1, int(side * scale / multiple + 0.5)) * multiple for side in size)
    return width, height


def read(source: Path | Image.Image, name: str) -> Image.Image:
    """Upright RGB pixels.

    Raises:
        ValueError: See ``Picture.resized``.
    """
    if isinstance(source, Image.Image):
        if source.mode not in EIGHT_BIT:
            raise ValueError(f'{name} has mode {source.mode}, whose range is unknown: convert it to RGB, or give its file')
        return ImageOps.exif_transpose(source).convert('RGB')
    try:
        return load_rgb(source)
    except READ_ERRORS as error:
        raise ValueError(f'image {printable(source)} cannot be read ({said(error)}): leave it out') from error


def normalized(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """RGB image -> (1, 3, H, W), normalized per channel; ``mean`` and ``std`` of values in [0, 1]."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    mean_, std_ = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    return (pixels - mean_) / std_


def find_files(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """The files named, and those in the folders named and their subfolders, in that order.

    Raises:
        FileNotFoundError: One does not exist, or a folder contains no image.
    """
    return [file for path in paths for file in _files_of(Path(path))]


def _files_of(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f'image {printable(path)} does not exist')
    if not path.is_dir():
        return [path]
    found = walk(path)
    report(path, found)
    if not len(found.images):
        raise FileNotFoundError(f'folder {printable(path)} contains no images')
    return [path / os.fsdecode(name) for name in found.images]


def readable(files: Sequence[Path], named: Iterable[str | os.PathLike]) -> tuple[list[Path], list[str]]:
    """Files without those that were found in a folder and cannot be read, and why these are left out.

    Args:
        files: See ``find_files``.
        named: The files and folders that were given; a file that was given itself stays.

    Raises:
        ValueError: None is left.
    """
    given, kept, problems = {Path(path) for path in named}, [], []
    for file in files:
        try:
            if file not in given:
                read(file, printable(file))
            kept.append(file)
        except ValueError as error:
            problems.append(str(error))
    if files and not kept:
        raise ValueError(problems[0])
    return kept, problems


def spread(items: Sequence[Item], limit: int) -> list[Item]:
    """At most ``limit`` items, evenly spread over all and in their order."""
    count = min(limit, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def pictures_of(images: ImageLike | Sequence[ImageLike], size: int) -> list[Picture]:
    """Pictures of files, folders and images in memory.

    Raises:
        FileNotFoundError: See ``find_files``.
        ValueError: No image, or ``size`` below 1.
    """
    if size < 1:
        raise ValueError(f'size={size} must be at least 1 pixel')
    given = [images] if isinstance(images, (str, os.PathLike, Image.Image)) else list(images)
    sources: list[Path | Image.Image] = []
    for image in given:
        sources += [image] if isinstance(image, Image.Image) else find_files([image])
    if not sources:
        raise ValueError('no images to show')
    return [Picture(source, name, size) for source, name in zip(sources, short_names(sources), strict=True)]


def short_names(sources: Sequence[Path | Image.Image]) -> list[str]:
    """Names of files with as many folders as it takes to tell them apart; images in memory are numbered from 1."""
    parts = [
        (f'image {i}',) if isinstance(source, Image.Image) else tuple(map(printable, source.parts))
        for i, source in enumerate(sources, start=1)
    ]
    depth = 1
    while _repeated(parts, depth) and depth < max(map(len, parts)):
        depth += 1
    counts = Counter(part[-1] for part in parts)
    return ['/'.join(part[-depth:] if counts[part[-1]] > 1 else part[-1:]) for part in parts]


def _repeated(parts: Sequence[tuple[str, ...]], depth: int) -> bool:
    return len({part[-depth:] for part in parts}) < len(parts)
