"""Decodes any image file to upright 8-bit RGB, and reports lost information.

Pillow reads what it preserves completely; :mod:`mmadclr.datasets.deep_formats` reads the rest.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import Image

from mmadclr.datasets.deep_formats import (
    PNG_SIGNATURE,
    SIGNED,
    TIFF_SIGNATURES,
    UNSIGNED,
    TiffFacts,
    check_tiff,
    pnm_header,
    read_deep_png,
    read_pnm,
    read_tiff,
    tiff_facts,
)
from mmadclr.datasets.orientation import exif_orientation, has_segment, orientation_of, upright
from mmadclr.datasets.pixels import (
    ALPHA,
    CMYK,
    FRAMES,
    DecodeError,
    Levels,
    PixelOptions,
    bands_lost,
    check_size,
    choose_bands,
    take_bands,
    to_8_bits,
)

AS_THEY_ARE = PixelOptions()


class Decoded(NamedTuple):
    """An upright RGB image, and the information lost in decoding."""

    image: Image.Image
    lost: list[str]


def read_rgb(data: bytes, options: PixelOptions = AS_THEY_ARE) -> Decoded:
    """Decodes any file that Pillow reads, plus 16-bit color PNG, PNM, and TIFF with any bands and depth.

    Raises:
        DecodeError: Too many pixels, or unknown bands or value range.
        OSError, SyntaxError, ValueError: The file is not an image, or truncated.
    """
    if data[:8] == PNG_SIGNATURE and data[24:25] == b'\x10' and data[25:26] != b'\0':
        levels = read_deep_png(data, options)
        return _decoded(levels, options, exif_orientation(data), [FRAMES] * (b'acTL' in data[: data.find(b'IDAT')]))
    if re.match(rb'P[2356]\s', data) and (header := pnm_header(data)) is not None and header.largest > 255:
        return _decoded(read_pnm(data, header, options), options)
    if data[:4] in TIFF_SIGNATURES and (facts := tiff_facts(data)) is not None:
        check_tiff(facts, options)
        lost = [FRAMES] * facts.more_pages
        if not facts.pillow_keeps_all:
            if options.bands is not None or not facts.pillow_keeps_colors:
                return _decoded(read_tiff(data, facts), options, facts.orientation, lost)
            lost.append(bands_lost(facts.samples, facts.colors))
        decoded = _read_by_pillow(data, options, facts)
        return decoded._replace(lost=[*lost, *decoded.lost])
    return _read_by_pillow(data, options)


def rgb_of_array(array: np.ndarray, options: PixelOptions = AS_THEY_ARE) -> Decoded:
    """Converts an array (H, W), (H, W, 1) or (H, W, 3), or (H, W, C) with ``options.bands``, as if read from a file.

    Raises:
        DecodeError: Another shape, too many pixels, or unknown bands or value range.
    """
    if array.ndim not in (2, 3) or array.size == 0:
        raise DecodeError(
            f'an array of shape {array.shape} is not an image: it must be (height, width) or (height, width, bands)'
        )
    check_size(array.shape[1], array.shape[0], options)
    bands = array.shape[2] if array.ndim == 3 else 1
    return _decoded(Levels(array, colors=bands if bands in (1, 3) else 0), options)


def lost_by_header(data: bytes) -> list[str]:
    """Information lost when a fast decoder reads a JPEG, PNG or WebP file, from its header."""
    if data[:2] == b'\xff\xd8':
        return [FRAMES] if has_segment(data, 0xE2, b'MPF\0') else []
    if data[:8] == PNG_SIGNATURE:
        return [ALPHA] if data[25:26] in (b'\x04', b'\x06') or b'tRNS' in data[: data.find(b'IDAT')] else []
    if data[8:16] == b'WEBPVP8L':
        return [ALPHA] if int.from_bytes(data[21:25], 'little') >> 28 & 1 else []
    return []


def _decoded(levels: Levels, options: PixelOptions, orientation: int = 1, lost: Sequence[str] = ()) -> Decoded:
    array, dropped = choose_bands(levels, options.bands)
    pixels, reduced = to_8_bits(array, levels.full, options.value_range)
    if levels.inverted:
        pixels = 255 - pixels
    pixels = np.ascontiguousarray(np.broadcast_to(pixels.reshape(*pixels.shape[:2], -1), (*pixels.shape[:2], 3)))
    return Decoded(Image.fromarray(upright(pixels, orientation)), [*lost, *dropped, *reduced])


def _read_by_pillow(data: bytes, options: PixelOptions, tiff: TiffFacts | None = None) -> Decoded:
    with warnings.catch_warnings(), _limit(options), Image.open(io.BytesIO(data)) as image:
        check_size(*image.size, options)
        frames = [FRAMES] * (tiff is None and getattr(image, 'is_animated', False))
        image.load()
        orientation = orientation_of(image)
        if image.mode.startswith('I') or image.mode == 'F':
            return _decoded(_levels(image, tiff), options, orientation, frames)
        rgb, lost = _plain_rgb(image, options)
        if orientation != 1:
            rgb = Image.fromarray(upright(np.asarray(rgb), orientation))
        return Decoded(rgb, frames + lost)


@contextmanager
def _limit(options: PixelOptions) -> Iterator[None]:
    """Pillow's pixel limit with our error message, within the caller's ``catch_warnings``; disabled if ours is set."""
    before = Image.MAX_IMAGE_PIXELS
    warnings.simplefilter('ignore')  # unusual tags and blocks, palette transparency: the pixels are valid
    try:
        if options.max_pixels is not None:
            Image.MAX_IMAGE_PIXELS = None
        yield
    except Image.DecompressionBombError as error:
        raise DecodeError(f'{error} Set max_pixels of the data set (--max-pixels) if you trust the file') from error
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _levels(image: Image.Image, tiff: TiffFacts | None) -> Levels:
    """Values of a single-band image that Pillow stores in 16 or 32 bits."""
    array = np.asarray(image)
    if tiff is not None:
        if tiff.bits == 32 and tiff.sample_format == UNSIGNED:
            array = array.view(np.uint32)
        elif tiff.bits == 16 and tiff.sample_format == SIGNED:
            array = array.astype(np.int16)
        return Levels(array, tiff.full, inverted=tiff.inverted)
    if image.format == 'PNG':
        array = array.astype(np.uint16)  # some versions of Pillow store them in 32 bits
    return Levels(array)


def _plain_rgb(image: Image.Image, options: PixelOptions) -> tuple[Image.Image, list[str]]:
    """Converts an image with 1 or 8 bits per value to RGB; also returns the lost information."""
    transparent = 'transparency' in image.info or image.mode in ('LA', 'PA', 'La', 'RGBA', 'RGBa')
    if options.bands is not None and len(image.getbands()) + (image.mode == 'P') > 1:
        if image.mode in ('P', 'PA', 'La', 'RGBa', 'YCbCr', 'LAB', 'HSV'):
            image = image.convert('RGBA' if transparent else 'RGB')
        return Image.fromarray(take_bands(np.asarray(image), options.bands)), []
    return image.convert('RGB'), [ALPHA] * transparent + [CMYK] * (image.mode == 'CMYK')
