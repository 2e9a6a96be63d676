"""Pixels of any depth and any number of bands -> 8-bit RGB, as far as the file or its user says what they mean.

What a file does not say is not guessed: the range of values that fill neither 8 nor 16 bits, or which of five bands is red.
What gets lost on the way is named, so that whoever reads many images can count and say it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

ROWS = 256  # that are brought to 8 bits at a time, so that no copy of a large image in float64 is made
# What is lost, as the end of a sentence that begins with a number of images.
DEPTH = 'have more than 8 bits a value, of which 8 are kept'
ALPHA = 'have an alpha channel, which is not used'
FRAMES = 'hold several pages or frames, of which the first is used'
CMYK = 'are of CMYK colors, converted without their profile'
CLIPPED = 'have values beyond value_range, which are cut off'


class DecodeError(ValueError):
    """No decoder makes an image of these bytes."""


class PixelOptions(NamedTuple):
    """What files do not say about their pixels; arguments of ``ImageDataset``.

    Attributes:
        value_range: (low, high), values that become 0 and 255, of images that have more than 8 bits a value or floats;
            values beyond are cut off. None: 16 bits are taken as 0 to 65535 where values use the upper half; all other
            depths are errors, unless the file itself declares its largest value (PGM, PPM, TIFF of 9 to 15 bits).
        bands: Numbers, from 0, of the bands to take as red, green and blue, of images with 2 bands or more. None: colors as
            the file says, without alpha.
        max_pixels: An image with more is an error. None: twice ``PIL.Image.MAX_IMAGE_PIXELS``, as Pillow has it.
    """

    value_range: tuple[float, float] | None = None
    bands: tuple[int, int, int] | None = None
    max_pixels: int | None = None


class Levels(NamedTuple):
    """Stored values.

    ``array``: (H, W) or (H, W, C). ``full``: the largest value there can be, where the file declares one. ``colors``: so
    many of the first bands are known to be colors: 1 gray, 3 RGB, 0 none. ``alpha``: the band behind them is an alpha
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
    """The options, checked.

    Raises:
        ValueError: A range that is none, bands that are not three numbers from 0, or a limit below 1.
    """
    if value_range is not None:
        value_range = tuple(float(value) for value in value_range)
        if len(value_range) != 2 or not np.isfinite(value_range).all() or value_range[0] >= value_range[1]:
            raise ValueError(f'value_range={value_range}: give two numbers, the values of black and of white')
    if bands is not None:
        bands = tuple(int(band) for band in bands)
        if len(bands) != 3 or min(bands) < 0:
            raise ValueError(f'bands={bands}: give three numbers, from 0, the bands of red, green and blue')
    if max_pixels is not None and max_pixels < 1:
        raise ValueError(f'max_pixels={max_pixels}: an image has 1 pixel or more')
    return PixelOptions(value_range, bands, max_pixels)


def pixel_limit(options: PixelOptions) -> float:
    """The largest number of pixels of an image."""
    if options.max_pixels is not None:
        return options.max_pixels
    return float('inf') if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def check_size(width: int, height: int, options: PixelOptions) -> None:
    """Raises a DecodeError if an image has too many pixels."""
    limit = pixel_limit(options)
    if width * height > limit:
        raise DecodeError(
            f'{width}x{height} pixels are more than the {limit:,.0f} an image may have: set max_pixels of the data set '
            '(--max-pixels) if the file is to be trusted'
        )


def choose_bands(levels: Levels, bands: tuple[int, int, int] | None) -> tuple[np.ndarray, list[str]]:
    """(H, W) or (H, W, 3) of the values, and what was lost.

    Raises:
        DecodeError: No band is known to be a color, or there is none of a number asked for.
    """
    array = levels.array
    count = array.shape[2] if array.ndim == 3 else 1
    if count == 1:
        return array.reshape(array.shape[:2]), []
    if bands is not None:
        return take_bands(array, bands), []
    if levels.colors == 0:
        raise DecodeError(
            f'{count} bands, of which the file calls none red, green or blue: set bands=(r, g, b) of the data set '
            '(--bands R G B)'
        )
    used = array[..., 0] if levels.colors == 1 else array[..., :3]
    if count == levels.colors:
        return used, []
    return used, [ALPHA if levels.alpha and count == levels.colors + 1 else bands_lost(count, levels.colors)]


def bands_lost(count: int, used: int) -> str:
    """What is lost of so many bands."""
    return f'have {count} bands, of which the first{f" {used}" * (used > 1)} alone count (bands=(r, g, b) takes others)'


def take_bands(array: np.ndarray, bands: tuple[int, int, int]) -> np.ndarray:
    """(H, W, 3) of (H, W, C); a DecodeError if there is none of a number."""
    if max(bands) >= array.shape[2]:
        raise DecodeError(f'bands={bands}: there are {array.shape[2]} bands, numbered from 0')
    return np.ascontiguousarray(array[..., list(bands)])


def to_8_bits(
    array: np.ndarray, full: int | None = None, value_range: tuple[float, float] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Values of any type as uint8 of the same shape, and what was lost; uint8 is left as it is.

    Args:
        array: Integers or floats.
        full: The largest value there can be, if that is known.
        value_range: See ``PixelOptions``.

    Raises:
        DecodeError: The range is not known, or values are NaN.
    """
    array = array.astype(array.dtype.newbyteorder('='), copy=False)
    if array.dtype == np.uint8 and full is None:
        return array, []
    if array.dtype.kind not in 'uif':
        raise DecodeError(f'pixels of type {array.dtype}, which are neither integers nor floats')
    if array.dtype.kind == 'f' and any(np.isnan(part).any() for part in _parts(array)):
        raise DecodeError('some pixels are NaN: fill them in before')
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
        return f'16-bit pixels use {low} to {high} of 0 to 65535 alone: {remedy}, to (0, 65535) if that is meant'
    if array.dtype.kind == 'f':
        return f'floating-point pixels have no known range, here they are from {low} to {high}: {remedy}'
    kind = 'signed ' if array.dtype.kind == 'i' else ''
    return f'{kind}{array.dtype.itemsize * 8}-bit pixels have no known range, here they are from {low} to {high}: {remedy}'
