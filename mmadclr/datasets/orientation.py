"""EXIF orientation: all images are rotated upright, as displayed.

This rule applies to all readers in this package, and matches mmdet's and mmseg's default loader: masks and boxes refer to
the displayed image. torchvision's data sets, in contrast, use the stored pixels.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

TAG = 0x0112
EXIF = b'Exif\0\0'
START_OF_SCAN = 0xDA
# Pillow's exceptions for broken files and broken EXIF blocks (which are then ignored): missing tags, indices out of
# range, and failed assertions.
BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError, EOFError),
    *(NotImplementedError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError),
)


def orientation_of(image: Image.Image) -> int:
    """Stored orientation of an open image, 1 (upright) to 8; for PNG only after loading. Pillow rotates TIFF itself.

    Only the EXIF tag counts; Pillow's ``exif_transpose`` also reads XMP, which viewers do not.
    """
    block = image.info.get('exif')
    if not block:
        return 1
    exif = Image.Exif()
    try:
        exif.load(block)
        value = exif.get(TAG, 1)
    except BROKEN:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def exif_orientation(data: bytes) -> int:
    """Orientation from the contents of a JPEG, PNG or WebP file; takes microseconds if there is no EXIF block."""
    if not _has_exif(data):
        return 1
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format == 'PNG':
                image.load()  # the EXIF block may follow the pixels
            return orientation_of(image)
    except BROKEN:
        return 1


def _has_exif(data: bytes) -> bool:
    """Whether there may be an EXIF block."""
    if data[:2] != b'\xff\xd8':
        return b'eXIf' in data or b'EXIF' in data
    return has_segment(data, 0xE1, EXIF)


def has_segment(data: bytes, marker: int, name: bytes) -> bool:
    """Whether a JPEG has a segment with this marker and name before the pixels."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != START_OF_SCAN:
        if data[place + 1] == marker and data.startswith(name, place + 4):
            return True
        if data[place + 1] == 0xFF:  # fill byte
            place += 1
            continue
        place += 2 + int.from_bytes(data[place + 2 : place + 4], 'big')
    return False


def displayed_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Displayed (width, height) of an image stored with this size."""
    return size[::-1] if orientation >= 5 else size


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels (H, W, ...) as displayed: the same array for orientation 1, otherwise a contiguous copy."""
    turned = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
        8: lambda x: np.rot90(x, 1),
    }[orientation](pixels)
    return np.ascontiguousarray(turned)
