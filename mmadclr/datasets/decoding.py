"""Decodes image files to 8-bit RGB pixels with the fastest decoder that is bit-identical to Pillow.

JPEG is decoded by simplejpeg (libjpeg-turbo, as in Pillow), plain PNG, BMP and WebP by OpenCV. All other files (TIFF, GIF,
PPM, CMYK JPEG, 16-bit or animated PNG, WebP with alpha or frames) are decoded by Pillow and our additional readers
(:mod:`mmadclr.datasets.any_image`), as are files that the others reject: Pillow decides whether a damaged file is readable.
Images are rotated upright (:mod:`mmadclr.datasets.orientation`).
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from mmengine.logging import print_log
from PIL import Image, UnidentifiedImageError

from mmadclr.annotations import MaybeNone
from mmadclr.datasets.any_image import AS_THEY_ARE, Decoded, lost_by_header, read_rgb
from mmadclr.datasets.deep_formats import PNG_SIGNATURE, png_chunks_fit
from mmadclr.datasets.orientation import BROKEN, displayed_size, exif_orientation, upright
from mmadclr.datasets.pixels import DecodeError, PixelOptions

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

READ_ERRORS = BROKEN  # errors of truncated files, files that are not images, and absurdly large ones
CV2_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


class Scratch:
    """Reusable memory for decoding: allocating fresh pages costs a quarter of the decoding time."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, dtype=np.uint8)

    def get(self, size: int) -> np.ndarray:
        """(size,) uint8, valid until the next call."""
        if len(self._bytes) < size:
            self._bytes = np.empty(size, dtype=np.uint8)
        return self._bytes[:size]

    def __getstate__(self) -> dict:
        return dict(_bytes=np.empty(0, dtype=np.uint8))  # the content is irrelevant in another process


class EncodedImage:
    """An image decoded lazily, once the required resolution is known.

    Args:
        data: Contents of the file.
        name: Name in messages.
        options: Interpretation of its pixels.

    Attributes:
        size: (width, height) as displayed; for a JPEG from its header alone.
        fallbacks: Messages about fast decoders that rejected a file that Pillow could read.
        lost: Information of the file not in the pixels; see :mod:`mmadclr.datasets.pixels`.
    """

    def __init__(self, data: bytes, name: str, options: PixelOptions = AS_THEY_ARE) -> None:
        self.data, self.name, self.options = data, name, options
        self.fallbacks: list[str] = []
        self.lost = lost_by_header(data)
        self._pixels: np.ndarray | None = None
        stored_size, refusal = jpeg_size(data, options)
        self._stored_size: tuple[int, int] | MaybeNone = stored_size
        if stored_size is None:
            self._pixels = self._decode_at_once(refusal)
            self.size = self._pixels.shape[1::-1]
        else:
            self._orientation = exif_orientation(data)
            self.size = displayed_size(stored_size, self._orientation)

    @property
    def is_complete_upright_jpeg(self) -> bool:
        """Whether a device may decode the file: an upright RGB or gray JPEG that does not look truncated.

        If its end marker is missing, Pillow decides; other damage is found when decoding.
        """
        return self._pixels is None and self._orientation == 1 and self.data.rstrip(b'\0').endswith(b'\xff\xd9')

    def decode(self, shrink: int = 1, scratch: Scratch | None = None) -> np.ndarray:
        """Pixels (H, W, 3) uint8; at least (ceil(H / shrink), ceil(W / shrink), 3), which only JPEG makes use of.

        Args:
            shrink: 1, 2, 4 or 8.
            scratch: Memory for the pixels, which are then valid until its next use.

        Raises:
            DecodeError: The file is truncated or broken.
        """
        if self._pixels is not None:
            return self._pixels
        width, height = (-(-side // shrink) for side in self._stored_size)
        buffer = None if scratch is None else scratch.get(width * height * 3)
        limits = dict(min_width=width, min_height=height, min_factor=shrink) if shrink > 1 else {}
        try:
            return upright(simplejpeg.decode_jpeg(self.data, buffer=buffer, **limits), self._orientation)
        except ValueError as error:
            self._pixels = self._decode_by_pillow(f'simplejpeg: {error}')
            return self._pixels

    def _decode_at_once(self, refusal: str | None) -> np.ndarray:
        if refusal is None and self.options.bands is not None:
            refusal = 'bands are selected'
        if refusal is None and opencv_agrees_with_pillow(self.data):
            pixels = decode_by_opencv(self.data, self.options)
            if pixels is not None:
                return upright(pixels, exif_orientation(self.data))
            refusal = 'OpenCV cannot read it'
        if refusal is None:
            refusal = 'unsupported by OpenCV'
        return self._decode_by_pillow(refusal)

    def _decode_by_pillow(self, refusal: str | None) -> np.ndarray:
        image, self.lost = read_by_pillow(self.data, self.options)
        pixels = np.array(image)
        if refusal is not None:
            self.fallbacks.append(f'{self.name}: decoded by Pillow ({refusal})')
        return pixels


def is_jpeg(data: bytes) -> bool:
    return data[:2] == b'\xff\xd8'


def jpeg_size(data: bytes, options: PixelOptions = AS_THEY_ARE) -> tuple[tuple[int, int] | None, str | None]:
    """(width, height) of a JPEG for simplejpeg; otherwise None, and the reason if it is a JPEG."""
    if simplejpeg is None or not is_jpeg(data):
        return None, None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        return None, f'simplejpeg: {error}'
    if colors not in ('YCbCr', 'RGB', 'Gray'):
        return None, f'it has {colors} colors'
    if options.bands is not None:
        return None, 'bands are selected'
    if _is_large(width, height, options):
        return None, f'{width}x{height} pixels may be too many'
    return (width, height), None


def decode_by_opencv(data: bytes, options: PixelOptions = AS_THEY_ARE) -> np.ndarray | None:
    """Stored pixels (H, W, 3) uint8, or None if OpenCV rejects the file or Pillow should decide about its size."""
    if _is_large(*size_by_header(data), options):
        return None
    if data[:8] == PNG_SIGNATURE and not png_chunks_fit(data):
        return None
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), CV2_FLAGS)
    except cv2.error:
        return None
    if pixels is None or _is_large(pixels.shape[1], pixels.shape[0], options):
        return None
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)


def size_by_header(data: bytes) -> tuple[int, int]:
    """(width, height) in the header of a PNG, BMP or WebP file, read before allocating memory; otherwise (0, 0)."""
    if data[:8] == PNG_SIGNATURE:
        return int.from_bytes(data[16:20], 'big'), int.from_bytes(data[20:24], 'big')
    if data[:2] == b'BM':
        width, height = (int.from_bytes(data[start : start + 4], 'little', signed=True) for start in (18, 22))
        return abs(width), abs(height)  # top-down images have a negative height
    if data[12:16] == b'VP8L':
        bits = int.from_bytes(data[21:25], 'little')
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if data[12:16] == b'VP8 ':
        return int.from_bytes(data[26:28], 'little') & 0x3FFF, int.from_bytes(data[28:30], 'little') & 0x3FFF
    return 0, 0


def _is_large(width: int, height: int, options: PixelOptions) -> bool:
    limit = Image.MAX_IMAGE_PIXELS if options.max_pixels is None else options.max_pixels
    return limit is not None and width * height > limit


def opencv_agrees_with_pillow(data: bytes) -> bool:
    """Whether OpenCV decodes this kind of file bit-identically to Pillow and rejects it when truncated."""
    if data[:8] == PNG_SIGNATURE:
        animated = b'acTL' in data[: max(data.find(b'IDAT'), 0)]
        return data[24:25] in (b'\x01', b'\x02', b'\x04', b'\x08') and not animated
    if data[:4] == b'RIFF' and data[8:12] == b'WEBP':
        return data[12:16] in (b'VP8 ', b'VP8L')
    if is_jpeg(data):
        return simplejpeg is None and _is_complete_plain_jpeg(data)
    bits, compression = data[28:30], data[30:34]
    return data[:2] == b'BM' and bits in (b'\x08\0', b'\x18\0') and compression == bytes(4)


def _is_complete_plain_jpeg(data: bytes) -> bool:
    """OpenCV fills the missing part of a truncated JPEG with gray, and converts CMYK differently."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            warnings.simplefilter('ignore')
            plain = image.mode in ('RGB', 'L')
    except READ_ERRORS:
        return False
    return plain and data.rstrip(b'\0').endswith(b'\xff\xd9')


def decode_by_pillow(data: bytes) -> Image.Image:
    """Decodes as in published results: any file that Pillow reads, as 8-bit RGB.

    Raises:
        DecodeError: Pillow cannot read it, or its value range or bands are unknown.
    """
    return read_by_pillow(data).image


def read_by_pillow(data: bytes, options: PixelOptions = AS_THEY_ARE) -> Decoded:
    """As :func:`decode_by_pillow`, with lost information; see :func:`mmadclr.datasets.any_image.read_rgb`.

    Raises:
        DecodeError: See there.
    """
    try:
        return read_rgb(data, options)
    except DecodeError:
        raise
    except UnidentifiedImageError as error:
        raise DecodeError('cannot identify image file') from error  # Pillow's message contains a memory address
    except READ_ERRORS as error:
        raise DecodeError(said(error)) from error


def said(error: BaseException) -> str:
    """The error message of a reader; for unexpected exceptions, preceded by the exception type."""
    text = str(error)
    return text if text and isinstance(error, (OSError, SyntaxError, ValueError)) else f'{type(error).__name__}: {text}'


def load_rgb(path: str | Path | io.BytesIO, options: PixelOptions = AS_THEY_ARE) -> Image.Image:
    """Decodes an image file to 8-bit RGB; 16-bit gray values are scaled, not clipped at 255.

    Raises:
        READ_ERRORS: The file is not an image, truncated, or has an unknown value range or bands.
    """
    return read_rgb(path.getvalue() if isinstance(path, io.BytesIO) else Path(path).read_bytes(), options).image


@lru_cache(maxsize=1)
def warn_without_simplejpeg() -> None:
    """Logs once that JPEG is decoded by a slower decoder."""
    if simplejpeg is None:
        print_log(
            'simplejpeg is not installed: OpenCV decodes JPEG, always at full size (slower for large images); '
            'pip install simplejpeg',
            'current',
            logging.WARNING,
        )


@lru_cache(maxsize=1)
def use_one_thread() -> None:
    """For worker processes: OpenCV's thread pool would compete with other workers."""
    cv2.setNumThreads(1)


_threads: list[int] = []  # OpenCV's thread count, saved during a fork


def _end_pool() -> None:
    """A forked process does not have the threads of OpenCV's pool, and would wait for them forever on shutdown."""
    _threads.append(cv2.getNumThreads())
    cv2.setNumThreads(1)


def _allow_pool() -> None:
    cv2.setNumThreads(_threads.pop())


os.register_at_fork(before=_end_pool, after_in_parent=_allow_pool)
