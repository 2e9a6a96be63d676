"""Large photographs made smaller before they are packed: crops of 224 pixels need few of 12 million.

An image whose longer side is above a limit is decoded as training decodes it (upright, 8-bit RGB), resized by Pillow's
antialiased bicubic filter, the one that crops are cut with, and written as JPEG; all others stay as they are, to the byte.
FFCV's ``max_resolution`` (github.com/libffcv/ffcv, ffcv/fields/rgb_image.py) limits the longer side, too.
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
    """How images are made smaller: to ``max_side`` pixels, as JPEG of ``quality``; ``options`` of what files do not say."""

    max_side: int
    quality: int = 90
    options: PixelOptions = PixelOptions()


class Shrunk(NamedTuple):
    """Contents of a file to pack.

    ``changed``: it is a new JPEG. ``lost``: what of the old one is not in it. ``error``: why it could not be looked at, in
    which case it is the old one.
    """

    data: bytes
    changed: bool = False
    lost: Sequence[str] = ()
    error: str | None = None


def checked(shrinking: Shrinking) -> Shrinking:
    """The same; a ValueError if it makes no sense."""
    if shrinking.max_side < 1:
        raise ValueError(f'max_side={shrinking.max_side}: an image has 1 pixel or more')
    if not 1 <= shrinking.quality <= 100:
        raise ValueError(f'quality={shrinking.quality}: the quality of a JPEG is 1 to 100')
    if shrinking.options.bands is not None:
        raise ValueError('bands with max_side: a smaller image has three bands, and the others of the set keep theirs')
    return shrinking


def shrink(data: bytes, shrinking: Shrinking) -> Shrunk:
    """What is packed of a file.

    The color profile is kept where it is one of RGB; EXIF is not, after its orientation has been applied.
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
    """(width, height) with ``max_side`` as the longer one, each 1 or more."""
    width, height = (max(1, round(side * max_side / max(size))) for side in size)
    return width, height


def _size(data: bytes) -> tuple[int, int] | None:
    """(width, height) by the header, in either order; None where Pillow does not know the format."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            warnings.simplefilter('ignore')
            return image.size
    except READ_ERRORS:
        return None


def _profile(data: bytes) -> bytes | None:
    """The ICC profile, if it is one of RGB: ICC.1:2022, 7.2.6, has the color space in bytes 16 to 19."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            warnings.simplefilter('ignore')
            profile = image.info.get('icc_profile') or b''
    except READ_ERRORS:
        return None
    return profile if profile[16:20] == b'RGB ' else None
