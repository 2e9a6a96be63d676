"""Reads files that Pillow would reduce to 8 bits or to the first bands, or cannot read: 16-bit color PNG, PNM and TIFF."""

from __future__ import annotations

import io
import logging
import re
import warnings
from typing import NamedTuple

import cv2
import numpy as np
from PIL import TiffImagePlugin

from mmadclr.datasets.pixels import DecodeError, Levels, PixelOptions, check_size, pixel_limit

PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
TIFF_SIGNATURES = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # TIFF's SampleFormat
RGB, PALETTE, SEPARATED, YCBCR, LAB = 2, 3, 5, 6, 8  # TIFF's PhotometricInterpretation; 0 and 1 are gray
PILLOW_DEPTHS = (
    (12, UNSIGNED),
    (16, UNSIGNED),
    (16, SIGNED),
    (32, UNSIGNED),
    (32, SIGNED),
    (32, FLOAT),
)  # of single-band images
MAX_DEFLATED = 1032  # maximum expansion of a deflate stream, in bytes per byte
MAX_BYTES_PER_PIXEL = 16  # of the largest image; four bands of floats


def png_chunks_fit(data: bytes) -> bool:
    """Whether the chunks of a PNG lead to its end marker; OpenCV allocates a chunk's claimed size before checking it."""
    place = len(PNG_SIGNATURE)
    while place < len(data) and data[place + 4 : place + 8] != b'IEND':
        place += 12 + int.from_bytes(data[place : place + 4], 'big')
    return place < len(data)


def read_deep_png(data: bytes, options: PixelOptions) -> Levels:
    """Values of a 16-bit PNG with colors or alpha, by OpenCV; Pillow would keep the upper 8 bits.

    Raises:
        DecodeError: Too many pixels, or the file is truncated.
    """
    width, height = (int.from_bytes(data[start : start + 4], 'big') for start in (16, 20))
    check_size(width, height, options)
    # Otherwise the header is wrong; avoids allocating memory for it.
    is_possible = png_chunks_fit(data) and width * height * 2 <= MAX_DEFLATED * len(data)
    array = _by_opencv(data) if is_possible else None
    if array is None or array.shape != (height, width, array.shape[-1]):
        raise DecodeError('the PNG is truncated or broken')
    kind = data[25]
    if kind == 4:  # gray with alpha, which OpenCV expands to four bands
        return Levels(np.stack((array[..., 0], array[..., -1]), axis=-1), colors=1, alpha=True)
    return Levels(array, colors=3, alpha=kind == 6)


def _by_opencv(data: bytes) -> np.ndarray | None:
    """(H, W) or (H, W, C) as stored, colors in RGB order; None if OpenCV cannot read it."""
    try:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if array is None or array.ndim == 2:
        return array
    return np.ascontiguousarray(array[..., [2, 1, 0, *range(3, array.shape[2])]])


class PnmHeader(NamedTuple):
    """Header of a PGM or PPM file; pixels start at ``end``."""

    bands: int
    is_text: bool
    width: int
    height: int
    largest: int
    end: int


def pnm_header(data: bytes) -> PnmHeader | None:
    """None if there is no complete header."""
    gap = rb'(?:\s+(?:#[^\n]*\n\s*)*)'
    found = re.match(rb'P([2356])' + gap + rb'(\d{1,9})' + gap + rb'(\d{1,9})' + gap + rb'(\d{1,5})\s', data[:4096])
    if found is None:
        return None
    kind, width, height, largest = (int(part) for part in found.groups())
    return PnmHeader(3 if kind in (3, 6) else 1, kind in (2, 3), width, height, largest, found.end())


def read_pnm(data: bytes, header: PnmHeader, options: PixelOptions) -> Levels:
    """Values of a binary or text PGM or PPM file with more than 8 bits; Pillow would reduce PPM to 8 bits.

    Raises:
        DecodeError: Too many pixels, or the file is truncated.
    """
    check_size(header.width, header.height, options)
    count = header.width * header.height * header.bands
    if header.is_text:
        words = re.sub(rb'#[^\n]*', b'', data[header.end :]).split(maxsplit=count)[:count]
        values = np.array(words, dtype=np.int64) if all(map(bytes.isdigit, words)) else np.empty(0, dtype=np.int64)
    else:
        values = np.frombuffer(data, '>u2', min(count, (len(data) - header.end) // 2), header.end)
    if values.size < count or not count or values.max() > header.largest:
        raise DecodeError('the file is truncated or broken')
    array = values.astype(np.uint16).reshape(header.height, header.width, header.bands)
    full = None if header.largest == 65535 else header.largest
    return Levels(array, full, colors=header.bands)


class TiffFacts(NamedTuple):
    """Tags of the first page of a TIFF file, per TIFF 6.0; ``complete``: whether all strips or tiles are listed."""

    width: int
    height: int
    bits: int
    sample_format: int
    samples: int
    photometric: int
    extra: tuple[int, ...]
    planar: bool
    orientation: int
    more_pages: bool
    complete: bool

    @property
    def colors(self) -> int:
        """Number of bands that the file declares as colors; 0 for gray values with additional bands of unknown meaning."""
        if self.photometric in (RGB, YCBCR, LAB):
            return 3
        if self.photometric == SEPARATED:
            return 4
        return 1 if self.samples == 1 or (self.samples == 2 and self.has_alpha) else 0

    @property
    def has_alpha(self) -> bool:
        return self.extra[:1] in ((1,), (2,))

    @property
    def full(self) -> int | None:
        """The largest value, if the depth determines it."""
        return (1 << self.bits) - 1 if self.bits < 16 and self.bits != 8 and self.sample_format == UNSIGNED else None

    @property
    def inverted(self) -> bool:
        return self.photometric == 0

    @property
    def pillow_keeps_all(self) -> bool:
        """Whether Pillow supports the format and preserves every bit, and every band except alpha."""
        if self.bits > 8 or self.sample_format != UNSIGNED:
            return self.samples == 1 and (self.bits, self.sample_format) in PILLOW_DEPTHS
        others = self.samples - self.colors
        return self.colors > 0 and (others == 0 or (others == 1 and (self.has_alpha or not self.extra)))

    @property
    def pillow_keeps_colors(self) -> bool:
        """Whether Pillow reads the first three of four bands, of which the last has no known meaning."""
        return (self.bits, self.sample_format, self.photometric, self.samples) == (8, UNSIGNED, RGB, 4) and not self.planar


def tiff_facts(data: bytes) -> TiffFacts | None:
    """Facts of the first page, by Pillow's tag reader; None if they cannot be read."""
    try:
        header = data[:16] if data[2:3] == b'+' or data[3:4] == b'+' else data[:8]
        tags = TiffImagePlugin.ImageFileDirectory_v2(header)
        file = io.BytesIO(data)
        file.seek(tags.next)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            tags.load(file)
        bits, formats = tags.get(258, (1,)), tags.get(339, (UNSIGNED,))
        if len(set(bits)) > 1 or len(set(formats)) > 1:
            raise ValueError('bands of different depth')
        orientation = int(tags.get(274, 1))
        sample_format = UNSIGNED if formats[0] == 4 else int(formats[0])
        return TiffFacts(
            width=int(tags[256]),
            height=int(tags[257]),
            bits=int(bits[0]),
            sample_format=sample_format,
            samples=int(tags.get(277, 1)),
            photometric=int(tags.get(262, 1)),
            extra=tuple(tags.get(338, ())),
            planar=tags.get(284, 1) == 2,
            orientation=orientation if 1 <= orientation <= 8 else 1,
            more_pages=bool(tags.next),
            complete=_has_all_parts(tags),
        )
    except Exception:  # any error of Pillow's reader on a broken file: Pillow reports it when decoding
        return None


def _has_all_parts(tags: TiffImagePlugin.ImageFileDirectory_v2) -> bool:
    """Whether all strips or tiles required by the size are listed; Pillow would leave missing ones black."""
    width, height, planes = tags[256], tags[257], tags.get(277, 1) if tags.get(284, 1) == 2 else 1
    if 324 in tags:
        return len(tags[324]) >= -(-width // tags[322]) * -(-height // tags[323]) * planes
    return 273 not in tags or len(tags[273]) >= -(-height // min(tags.get(278, height), height)) * planes


def check_tiff(facts: TiffFacts, options: PixelOptions) -> None:
    """Raises DecodeError if a TIFF has too many pixels, too many bytes per pixel, or incomplete pixels."""
    check_size(facts.width, facts.height, options)
    size = facts.width * facts.height * facts.samples * facts.bits // 8
    if size > MAX_BYTES_PER_PIXEL * pixel_limit(options):
        raise DecodeError(f'{facts.samples} bands of {facts.bits} bits are {size:,} bytes: too many to read')
    if not facts.complete:
        raise DecodeError('the file lists only a part of its pixels: it is truncated or broken')


def read_tiff(data: bytes, facts: TiffFacts) -> Levels:
    """Values of a TIFF whose depth or bands Pillow does not fully support, by tifffile.

    16-bit colors are read by OpenCV, which requires no additional package.

    Raises:
        DecodeError: The file is truncated, or has unsupported colors; or tifffile is not installed.
    """
    if facts.photometric in (PALETTE, SEPARATED, YCBCR, LAB):
        raise DecodeError(f'a {facts.bits}-bit TIFF with photometric interpretation {facts.photometric} : convert it to RGB')
    array = None
    if (facts.photometric, facts.bits, facts.sample_format, facts.planar) == (RGB, 16, UNSIGNED, False):
        array = _by_opencv(data)
    if array is None or array.shape != (facts.height, facts.width, facts.samples):
        array = _by_tifffile(data)
    if array.shape[:2] != (facts.height, facts.width) or array.ndim > 3:
        raise DecodeError(f'a TIFF of shape {array.shape} is not an image of {facts.width}x{facts.height} pixels')
    return Levels(array, facts.full, facts.colors, facts.has_alpha, facts.inverted)


def _by_tifffile(data: bytes) -> np.ndarray:
    """(H, W) or (H, W, C)."""
    try:
        import tifffile
    except ImportError as error:
        raise DecodeError("a TIFF with this depth or these bands requires tifffile: pip install 'mmadclr[tiff]'") from error
    logging.getLogger('tifffile').setLevel(logging.CRITICAL)  # its messages are repeated in its exceptions
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            page = tiff.pages[0]
            ends = (start + size for start, size in zip(page.dataoffsets, page.databytecounts, strict=True))
            if max(ends, default=0) > len(data):
                raise ValueError('the file ends before the pixels do')  # otherwise missing pixels would be black
            array = page.asarray(maxworkers=1)
    except Exception as error:  # broken files cause arbitrary exceptions
        raise DecodeError(f'tifffile: {error}') from error
    if array.dtype == bool:
        array = array.astype(np.uint8)
    return np.moveaxis(array, 0, -1) if page.axes == 'SYX' else array
