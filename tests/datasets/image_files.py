"""Image files by hand, with what the usual writers do not write; for tests."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

RNG = np.random.default_rng(0)
SHAPE = 24, 31


def values(low, high, bands=0, dtype='uint16'):
    """Random ones that reach both ends in every band."""
    array = RNG.uniform(low, high, (*SHAPE, bands) if bands else SHAPE)
    array[0, 0], array[0, 1] = low, high
    return array.astype(dtype)


def png(array):
    """16 bits, of 1 (gray), 2 (gray, alpha), 3 or 4 bands."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[array.shape[2] if array.ndim == 3 else 1]

    def chunk(name, data):
        return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))

    header = struct.pack('>IIBBBBB', array.shape[1], array.shape[0], 16, kind, 0, 0, 0)
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in array)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')


def pnm(array, largest, text=False):
    kind = (3 if array.ndim == 3 else 2) if text else (6 if array.ndim == 3 else 5)
    header = f'P{kind}\n# by hand\n{array.shape[1]} {array.shape[0]}\n{largest}\n'.encode()
    return header + (' '.join(map(str, array.ravel())).encode() if text else array.astype('>u2').tobytes())


def tiff(array, **kwargs):
    tifffile = pytest.importorskip('tifffile')
    buffer = io.BytesIO()
    kwargs.setdefault('photometric', 'minisblack')
    if kwargs.get('planarconfig') == 'separate':
        array = np.ascontiguousarray(np.moveaxis(array, -1, 0))
    tifffile.imwrite(buffer, array, **kwargs)
    return buffer.getvalue()


def saved(image, kind, **kwargs):
    buffer = io.BytesIO()
    image.save(buffer, kind, **kwargs)
    return buffer.getvalue()


def pages(count=3):
    return [Image.fromarray(values(0, 255, 3, 'uint8')) for _ in range(count)]


ROUND = Image.fromarray(values(0, 255, 4, 'uint8'), 'RGBA')
TRANSPARENT = {
    'png': saved(ROUND, 'png'),
    'png gray': saved(ROUND.convert('LA'), 'png'),
    'png palette': saved(ROUND.convert('RGB').quantize(), 'png', transparency=3),
    'png color': saved(ROUND.convert('RGB'), 'png', transparency=(0, 0, 0)),
    'webp': saved(ROUND, 'webp', lossless=True),
    'webp lossy': saved(ROUND, 'webp'),
    'gif': saved(ROUND.convert('RGB').quantize(), 'gif', transparency=3),
    'tiff': saved(ROUND, 'tiff'),
    'tiff gray': saved(ROUND.convert('LA'), 'tiff'),
    'png deep': png(values(0, 65535, 4)),
    'png deep gray': png(values(0, 65535, 2)),
}
