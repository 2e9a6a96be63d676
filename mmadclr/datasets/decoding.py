"""The bytes of an image file -> 8-bit RGB pixels, by the fastest decoder that gives the pixels Pillow gives.

JPEG goes to simplejpeg (libjpeg-turbo, as in Pillow), plain PNG, BMP and WebP to OpenCV. Everything else (TIFF, GIF, PPM, CMYK
JPEG, 16-bit or animated PNG, WebP with an alpha plane or frames) goes to Pillow, and so does what those refuse: whether a damaged
file is readable is Pillow's to say. Orientation tags turn nothing, as in torchvision's datasets.
"""

from __future__ import annotations

import io
import logging
import warnings
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from mmengine.logging import print_log
from PIL import Image, UnidentifiedImageError

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

# What Pillow raises for files that are truncated, no image at all, or absurdly large.
READ_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
JPEG_SHRINKS = (8, 4, 2)  # libjpeg decodes at these fractions for a fraction of the time
CV2_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'


class DecodeError(ValueError):
    """No decoder makes an image of these bytes."""


class EncodedImage:
    """An image that is not decoded before somebody knows how large it has to be.

    Args:
        data: Contents of the file.
        name: What messages call it.

    Attributes:
        size: (width, height), of a JPEG from its header alone.
        fallbacks: Messages about fast decoders that refused the file where Pillow could read it.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name = data, name
        self.fallbacks: list[str] = []
        self._pixels = None
        self._by_simplejpeg = simplejpeg is not None and data[:2] == b'\xff\xd8'
        if self._by_simplejpeg:
            self._read_jpeg_header()
        if not self._by_simplejpeg:
            self._pixels = self._decode_whole()
            self.size = self._pixels.shape[1::-1]

    def decode(self, shrink: int = 1) -> np.ndarray:
        """Pixels (H, W, 3) uint8; of a JPEG (ceil(H / shrink), ceil(W / shrink), 3), where ``shrink`` is 1, 2, 4 or 8.

        Raises:
            DecodeError: The file is cut off or broken.
        """
        if self._pixels is not None:
            return self._pixels
        width, height = self.size
        smallest = dict(min_width=-(-width // shrink), min_height=-(-height // shrink)) if shrink > 1 else {}
        try:
            return simplejpeg.decode_jpeg(self.data, min_factor=shrink, **smallest)
        except ValueError as error:
            self._pixels = self._decode_by_pillow(f'simplejpeg says: {error}')
            return self._pixels

    def _read_jpeg_header(self) -> None:
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(self.data)
        except ValueError as error:
            self._by_simplejpeg = False
            self._pixels = self._decode_by_pillow(f'simplejpeg says: {error}')
            return
        self.size = width, height
        # Pillow converts CMYK its own way, and refuses absurd sizes.
        self._by_simplejpeg = colours in ('YCbCr', 'RGB', 'Gray') and width * height <= (Image.MAX_IMAGE_PIXELS or np.inf)

    def _decode_whole(self) -> np.ndarray:
        if self._pixels is not None:
            return self._pixels
        if not opencv_agrees_with_pillow(self.data):
            jpeg = self.data[:2] == b'\xff\xd8'
            return self._decode_by_pillow('the fast decoders leave CMYK, huge or cut JPEGs to it' if jpeg else None)
        pixels = cv2.imdecode(np.frombuffer(self.data, np.uint8), CV2_FLAGS)
        if pixels is None:
            return self._decode_by_pillow('OpenCV refused it')
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)

    def _decode_by_pillow(self, reason: str | None) -> np.ndarray:
        pixels = np.array(decode_by_pillow(self.data))
        if reason is not None:
            self.fallbacks.append(f'{self.name}: decoded by Pillow, {reason}')
        return pixels


def opencv_agrees_with_pillow(data: bytes) -> bool:
    """Whether the file is of a kind that OpenCV decodes to Pillow's pixels and refuses when it is cut off."""
    if data[:8] == PNG_SIGNATURE:
        bits = data[24:25]
        return bits != b'\x10' and b'acTL' not in data[:4096]
    if data[:4] == b'RIFF' and data[8:12] == b'WEBP':
        return data[12:16] in (b'VP8 ', b'VP8L')
    if data[:2] == b'\xff\xd8':
        return simplejpeg is None and _is_whole_plain_jpeg(data)
    return data[:2] == b'BM'


def _is_whole_plain_jpeg(data: bytes) -> bool:
    """OpenCV would fill the missing part of a JPEG with grey, and converts CMYK in its own way."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            warnings.simplefilter('ignore')
            plain = image.mode in ('RGB', 'L')
    except READ_ERRORS:
        return False
    return plain and data.rstrip(b'\0').endswith(b'\xff\xd9')


def decode_by_pillow(data: bytes) -> Image.Image:
    """The form in which results were published: any file Pillow reads, as 8-bit RGB.

    Raises:
        DecodeError: Pillow does not read it.
    """
    try:
        return load_rgb(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise DecodeError('cannot identify image file') from error  # Pillow's message holds an address in memory
    except READ_ERRORS as error:
        raise DecodeError(str(error) or type(error).__name__) from error


def load_rgb(path: str | Path | io.BytesIO) -> Image.Image:
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


@lru_cache(maxsize=1)
def warn_without_simplejpeg() -> None:
    """One line in the log if JPEG is left to a slower decoder."""
    if simplejpeg is None:
        print_log(
            'simplejpeg is not installed: OpenCV decodes JPEG, always at full size (slower for large images); '
            'pip install simplejpeg',
            'current',
            logging.WARNING,
        )


@lru_cache(maxsize=1)
def use_one_thread() -> None:
    """For worker processes: OpenCV's own pool would compete with the other workers."""
    cv2.setNumThreads(1)
