"""Shrinks large photographs before packing: 224-pixel crops do not need 12 megapixels.

An image whose longer side exceeds a limit is decoded as in training (upright, 8-bit RGB), resized by Pillow's
antialiased bicubic filter (the one used for crops), and encoded as JPEG; all others are kept byte for byte.
FFCV's ``max_resolution`` (github.com/libffcv/ffcv, ffcv/fields/rgb_image.py) also limits the longer side.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from mmadclr.datasets.decoding import READ_ERRORS, DecodeError, read_by_pillow
from mmadclr.datasets.pixels import PixelOptions

FILTER, SUBSAMPLING = 'bicubic', '4:2:0'


class Shrinking(NamedTuple):
    """Shrink to ``max_side`` pixels, as JPEG of ``quality``; ``options`` for the interpretation of pixels."""

    max_side: int
    quality: int = 90
    options: PixelOptions = PixelOptions()


class Shrunk(NamedTuple):
    """Contents of a file to pack.

    ``changed``: whether it is a new JPEG. ``lost``: information lost by conversion. ``error``: why it could not be read, in
    which case it is unchanged.
    """

    data: bytes
    changed: bool = False
    lost: Sequence[str] = ()
    error: str | None = None


def checked(shrinking: Shrinking) -> Shrinking:
    """Returns valid settings; raises ValueError for others."""
    if shrinking.max_side < 1:
        raise ValueError(f'max_side={shrinking.max_side} must be at least 1')
    if not 1 <= shrinking.quality <= 100:
        raise ValueError(f'quality={shrinking.quality} must be 1 to 100')
    if shrinking.options.bands is not None:
        raise ValueError('bands cannot be combined with max_side: shrunk images have three bands, but other images keep all')
    return shrinking


def shrink(data: bytes, shrinking: Shrinking) -> Shrunk:
    """The file contents to pack.

    RGB color profiles are kept; EXIF is dropped after applying its orientation.
    """
    size = _size(data)
    if size is not None and max(size) <= shrinking.max_side:
        return Shrunk(data)
    try:
        image, lost = read_by_pillow(data, shrinking.options)
    except DecodeError as error:
        return Shrunk(data, error=' '.join(str(error).split()))
    if max(image.size) <= shrinking.max_side:
        return Shrunk(data)
    buffer = io.BytesIO()
    small = image.resize(smaller(image.size, shrinking.max_side), Image.Resampling.BICUBIC)
    profile = _profile(data)
    small.save(
        buffer, 'JPEG', quality=shrinking.quality, subsampling=SUBSAMPLING, **({'icc_profile': profile} if profile else {})
    )
    return Shrunk(buffer.getvalue(), True, lost)


def smaller(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """(width, height) with ``max_side`` as the longer side, each at least 1."""
    width, height = (max(1, round(side * max_side / max(size))) for side in size)
    return width, height


def _size(data: bytes) -> tuple[int, int] | None:
    """Stored (width, height) from the header, before rotation; None if Pillow does not support the format."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            warnings.simplefilter('ignore')
            return image.size
    except READ_ERRORS:
        return None


def _profile(data: bytes) -> bytes | None:
    """The ICC profile if it is an RGB one: ICC.1:2022, 7.2.6, has the color space in bytes 16 to 19."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            warnings.simplefilter('ignore')
            profile = image.info.get('icc_profile') or b''
    except READ_ERRORS:
        return None
    return profile if profile[16:20] == b'RGB ' else None
