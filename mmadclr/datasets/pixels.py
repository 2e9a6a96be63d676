"""Converts pixels of any depth and number of bands to 8-bit RGB, if their meaning is known.

Unknown properties are not guessed, such as the range of values that fill neither 8 nor 16 bits, or which of five bands is
red. Lost information is described, so that readers of many images can count and report it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

ROWS = 256  # rows converted at a time, which avoids a float64 copy of a large image
# Kinds of lost information, as predicates of a sentence that starts with a number of images.
DEPTH = 'have more than 8 bits per value, of which 8 are kept'
ALPHA = 'have an alpha channel, which is not used'
FRAMES = 'have several pages or frames, of which the first is used'
CMYK = 'have CMYK colors, converted without their profile'
CLIPPED = 'have values outside value_range, which are clipped'


class DecodeError(ValueError):
    """The file content cannot be decoded to an image."""


class PixelOptions(NamedTuple):
    """Interpretation of pixels, where files do not specify it; arguments of ``ImageDataset``.

    Attributes:
        value_range: (low, high), values mapped to 0 and 255, for images with more than 8 bits per value or floats;
            values outside are clipped. None: 16-bit values that use the upper half are taken as 0 to 65535; all other
            depths are errors, unless the file declares its maximum value (PGM, PPM, TIFF with 9 to 15 bits).
        bands: Indices, from 0, of the bands used as red, green and blue, for images with 2 or more bands. None: the colors
            declared in the file, without alpha.
        max_pixels: Images with more pixels are errors. None: twice ``PIL.Image.MAX_IMAGE_PIXELS``, as in Pillow.
    """

    value_range: tuple[float, float] | None = None
    bands: tuple[int, int, int] | None = None
    max_pixels: int | None = None


class Levels(NamedTuple):
    """Stored values.

    ``array``: (H, W) or (H, W, C). ``full``: the maximum possible value, if declared in the file. ``colors``: number of
    leading bands known to be colors: 1 gray, 3 RGB, 0 none. ``alpha``: whether the next band is an alpha
    channel. ``inverted``: 0 is white.
    """

    array: np.ndarray
    full: int | None = None
    colors: int = 1
    alpha: bool = False
    inverted: bool = False


def pixel_options(
    value_range: Sequence[float] | None = None, bands: Sequence[int] | None = None, max_pixels: int | None = None
) -> PixelOptions:
    """Validated options.

    Raises:
        ValueError: An invalid range, bands that are not three indices, or a limit below 1.
    """
    if value_range is not None:
        value_range = tuple(float(value) for value in value_range)
        if len(value_range) != 2 or not np.isfinite(value_range).all() or value_range[0] >= value_range[1]:
            raise ValueError(f'value_range={value_range} must be two ascending numbers, the values of black and white')
    if bands is not None:
        bands = tuple(int(band) for band in bands)
        if len(bands) != 3 or min(bands) < 0:
            raise ValueError(f'bands={bands} must be three indices, from 0, of the red, green and blue bands')
    if max_pixels is not None and max_pixels < 1:
        raise ValueError(f'max_pixels={max_pixels} must be at least 1')
    return PixelOptions(value_range, bands, max_pixels)


def pixel_limit(options: PixelOptions) -> float:
    """Maximum number of pixels of an image."""
    if options.max_pixels is not None:
        return options.max_pixels
    return float('inf') if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def check_size(width: int, height: int, options: PixelOptions) -> None:
    """Raises DecodeError if an image has too many pixels."""
    limit = pixel_limit(options)
    if width * height > limit:
        raise DecodeError(
            f'{width}x{height} pixels exceed the limit of {limit:,.0f}: set max_pixels of the data set '
            '(--max-pixels) if you trust the file'
        )


def choose_bands(levels: Levels, bands: tuple[int, int, int] | None) -> tuple[np.ndarray, list[str]]:
    """(H, W) or (H, W, 3) of the values, and the lost information.

    Raises:
        DecodeError: No band is known to be a color, or a requested band does not exist.
    """
    array = levels.array
    count = array.shape[2] if array.ndim == 3 else 1
    if count == 1:
        return array.reshape(array.shape[:2]), []
    if bands is not None:
        return take_bands(array, bands), []
    if levels.colors == 0:
        raise DecodeError(
            f'{count} bands, none of which the file declares as red, green or blue: set bands=(r, g, b) of the data set '
            '(--bands R G B)'
        )
    used = array[..., 0] if levels.colors == 1 else array[..., :3]
    if count == levels.colors:
        return used, []
    return used, [ALPHA if levels.alpha and count == levels.colors + 1 else bands_lost(count, levels.colors)]


def bands_lost(count: int, used: int) -> str:
    """Description of the unused bands."""
    kept = f'first {used} are' if used > 1 else 'first is'
    return f'have {count} bands, of which only the {kept} used (select others with bands=(r, g, b))'


def take_bands(array: np.ndarray, bands: tuple[int, int, int]) -> np.ndarray:
    """(H, W, 3) of (H, W, C); raises DecodeError if a band does not exist."""
    if max(bands) >= array.shape[2]:
        raise DecodeError(f'bands={bands}: the file has {array.shape[2]} bands, numbered from 0')
    return np.ascontiguousarray(array[..., list(bands)])


def to_8_bits(
    array: np.ndarray, full: int | None = None, value_range: tuple[float, float] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Converts values of any dtype to uint8 of the same shape; returns also the lost information. uint8 is unchanged.

    Args:
        array: Integers or floats.
        full: The maximum possible value, if known.
        value_range: See ``PixelOptions``.

    Raises:
        DecodeError: The range is unknown, or values are NaN.
    """
    array = array.astype(array.dtype.newbyteorder('='), copy=False)
    if array.dtype == np.uint8 and full is None:
        return array, []
    if array.dtype.kind not in 'uif':
        raise DecodeError(f'pixels of dtype {array.dtype}, which are neither integers nor floats')
    if array.dtype.kind == 'f' and any(np.isnan(part).any() for part in _parts(array)):
        raise DecodeError('some pixels are NaN: replace them first')
    known = value_range if full is None else value_range or (0.0, float(full))
    if known is None and array.dtype == np.uint16 and array.max() >= 1 << 15:
        return (array >> 8).astype(np.uint8), [DEPTH]
    if known is None:
        raise DecodeError(_unknown_range(array))
    low, high = known
    pixels, beyond = np.empty(array.shape, dtype=np.uint8), False
    for source, target in zip(_parts(array), _parts(pixels), strict=True):
        beyond = beyond or bool(((source < low) | (source > high)).any())
        target[:] = np.rint((source.astype(np.float64).clip(low, high) - low) * (255 / (high - low)))
    reduced = [DEPTH] * (array.dtype != np.uint8)
    return pixels, [*reduced, CLIPPED] if beyond else reduced


def _parts(array: np.ndarray) -> list[np.ndarray]:
    return [array[start : start + ROWS] for start in range(0, len(array), ROWS)]


def _unknown_range(array: np.ndarray) -> str:
    low, high = (f'{value:g}' if array.dtype.kind == 'f' else str(value) for value in (array.min(), array.max()))
    remedy = 'set value_range=(low, high) of the data set (--value-range LOW HIGH)'
    if array.dtype == np.uint16:
        return f'16-bit pixels use only {low} to {high} of 0 to 65535: {remedy}, to (0, 65535) if that is intended'
    if array.dtype.kind == 'f':
        return f'floating-point pixels have an unknown range (here {low} to {high}): {remedy}'
    kind = 'signed ' if array.dtype.kind == 'i' else ''
    return f'{kind}{array.dtype.itemsize * 8}-bit pixels have an unknown range (here {low} to {high}): {remedy}'
