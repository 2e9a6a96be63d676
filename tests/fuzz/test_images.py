"""Image files of every format, cut, flipped, spliced and with headers that lie: read, or refused with their name."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from strategies import Refusal, damaged, outcome

from mmadclr.datasets import ImageDataset
from mmadclr.datasets.checks import image_problems
from mmadclr.datasets.decoding import EncodedImage, read_by_pillow
from mmadclr.datasets.label_maps import size_as_displayed
from mmadclr.datasets.loaders import hidden_turn, size_problem

WIDTH, HEIGHT = 31, 24
RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
GRAYS = RNG.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
MULTI_CROP = dict(type='MultiCrop', global_size=16, local_size=8, num_local=1, query_size=8, num_query=1)
READERS = {
    'fast': dict(transform=dict(MULTI_CROP, backend='fast')),
    'pillow': dict(transform=dict(MULTI_CROP, backend='pillow')),
    'bands': dict(transform=dict(MULTI_CROP, backend='fast'), bands=(2, 0, 1), value_range=(0, 1000)),
    'small': dict(transform=dict(type='ResizeCenterCrop', size=16, resize=20), value_range=(-1, 1), max_pixels=2**16),
}


def saved(image, kind, **kwargs):
    buffer = io.BytesIO()
    image.save(buffer, kind, **kwargs)
    return buffer.getvalue()


def encoded(extension, array):
    return cv2.imencode(extension, array)[1].tobytes()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = 'a description'
    return exif


def files():
    """A file of every kind that is read in its own way, by name."""
    color = Image.fromarray(COLORS)
    clear = color.copy()
    clear.putalpha(color.convert('L'))
    gray, deep, real = color.convert('L'), Image.fromarray(GRAYS), Image.fromarray(GRAYS / np.float32(65535))
    more = dict(save_all=True, append_images=[ImageOps.mirror(color), color])
    made = {
        'jpeg': saved(color, 'jpeg'),
        'jpeg turned': saved(color, 'jpeg', exif=turned()),
        'jpeg progressive': saved(color, 'jpeg', progressive=True, subsampling=0),
        'jpeg gray': saved(gray, 'jpeg'),
        'jpeg cmyk': saved(color.convert('CMYK'), 'jpeg'),
        'png': saved(color, 'png'),
        'png turned': saved(color, 'png', exif=turned()),
        'png clear': saved(clear, 'png'),
        'png palette': saved(color.quantize(16), 'png', transparency=3),
        'png bits': saved(color.convert('1'), 'png'),
        'png deep': saved(deep, 'png'),
        'png deep color': encoded('.png', np.stack([GRAYS] * 3, axis=-1)),
        'png animated': saved(color, 'png', **more),
        'bmp': saved(color, 'bmp'),
        'bmp palette': saved(color.quantize(16), 'bmp'),
        'bmp clear': saved(clear, 'bmp'),
        'webp': saved(color, 'webp', exif=turned()),
        'webp lossless': saved(color, 'webp', lossless=True),
        'webp clear': saved(clear, 'webp'),
        'webp animated': saved(color, 'webp', **more),
        'gif': saved(color.quantize(16), 'gif', transparency=1),
        'gif animated': saved(color, 'gif', **more),
        'tiff': saved(color, 'tiff'),
        'tiff gray': saved(gray, 'tiff'),
        'tiff deep': saved(deep, 'tiff'),
        'tiff deep color': encoded('.tif', np.stack([GRAYS] * 3, axis=-1)),
        'tiff real': saved(real, 'tiff'),
        'tiff pages': saved(color, 'tiff', **more),
        'tiff cmyk': saved(color.convert('CMYK'), 'tiff'),
        'ppm': saved(color, 'ppm'),
        'pgm deep': saved(deep, 'ppm'),
        'ppm text': b'P3\n# made here\n8 9\n999\n' + ' '.join(map(str, range(216))).encode(),
    }
    for compression in ('tiff_lzw', 'tiff_adobe_deflate', 'jpeg', 'packbits'):
        made[f'tiff {compression}'] = saved(color, 'tiff', compression=compression)
    return made


FILES = files()
# What the readers without ``value_range`` refuse, though it is whole.
OF_NO_RANGE = {'tiff real'}


def with_true_sums(data):
    """A PNG with the checksums of its chunks as they have to be, so that what lies in them gets to the decoders."""
    parts, place = [data[:8]], 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], 'big')
        body = data[place + 4 : place + 8 + length]
        parts += [data[place : place + 4], body, struct.pack('>I', zlib.crc32(body))]
        place += 12 + length
    return b''.join(parts) if place <= len(data) else b''.join(parts)[: len(data)]


def fields(name, data):
    """(offset, struct format) of numbers in a file that say its width, height, depth and the like."""
    if name.startswith('png'):
        return [(16, '>I'), (20, '>I'), (24, '>B'), (25, '>B'), (26, '>B'), (28, '>B')]
    if name.startswith('bmp'):
        return [(10, '<I'), (14, '<I'), (18, '<i'), (22, '<i'), (26, '<H'), (28, '<H'), (30, '<I'), (34, '<I'), (46, '<I')]
    if name.startswith('gif'):
        start = data.index(b',', 13 + 3 * 2 ** ((data[10] & 7) + 1))
        return [(6, '<H'), (8, '<H'), (10, '<B'), *((start + n, '<H') for n in (1, 3, 5, 7)), (start + 9, '<B')]
    if name.startswith('webp'):
        found = [(4, '<I'), (16, '<I'), (20, '<I'), (24, '<I'), (27, '<I')]
        return found + [(match.start() + n, '<H') for match in re.finditer(b'\x9d\x01\x2a', data) for n in (3, 5)]
    if name.startswith('jpeg'):
        start = min(place for place in (data.find(b'\xff\xc0'), data.find(b'\xff\xc2')) if place > 0)
        return [(start + 2, '>H'), (start + 4, '>B'), (start + 5, '>H'), (start + 7, '>H'), (start + 9, '>B')]
    if name.startswith('tiff'):
        order = '<' if data[:2] == b'II' else '>'
        start = struct.unpack_from(f'{order}I', data, 4)[0]
        count = struct.unpack_from(f'{order}H', data, start)[0]
        entries = [start + 2 + 12 * n for n in range(count)]
        return [(entry + at, order + kind) for entry in entries for at, kind in ((2, 'H'), (4, 'I'), (8, 'I'), (8, 'H'))]
    return []


# Sides whose product is a small image, or one beyond Pillow's limit.
LIES = [0, 1, 2, 3, 7, 8, 16, 23, 25, 32, 64, 255, 20_000, 60_000, 65_535, 2**31 - 1, 2**31, 2**32 - 1]


@st.composite
def lying(draw):
    """A file whose header says something else than the pixels behind it."""
    name = draw(st.sampled_from(sorted(FILES)))
    data, found = bytearray(FILES[name]), fields(name, FILES[name])
    if not found:
        text = draw(st.sampled_from([b'%d %d\n%d\n' % (draw(st.sampled_from(LIES)), side, 65_535) for side in LIES]))
        return name, bytes(data[:3]) + text + bytes(data[15:])
    for offset, kind in draw(st.lists(st.sampled_from(found), min_size=1, max_size=3, unique=True)):
        size = struct.calcsize(kind)
        value = draw(st.sampled_from(LIES) | st.integers(0, 64)) % 2 ** (8 * size)
        data[offset : offset + size] = value.to_bytes(size, 'big' if kind[0] == '>' else 'little')
    return name, with_true_sums(bytes(data)) if name.startswith('png') else bytes(data)


@pytest.fixture(scope='module')
def read(tmp_path_factory):
    """Reads bytes by the data sets of ``READERS``; returns samples, or messages, by reader."""
    root = tmp_path_factory.mktemp('images')
    path = root / 'image.png'  # contents decide
    path.write_bytes(FILES['png'])
    datasets = {name: ImageDataset(str(root), **settings) for name, settings in READERS.items()}

    def call(data):
        path.write_bytes(data)
        return {name: outcome(lambda dataset=dataset: dataset[0], str(path)) for name, dataset in datasets.items()}

    call.path, call.datasets = path, datasets
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, 'MAX_IMAGE_PIXELS', 2**22)  # a limit of 8 million pixels, so that memory tells what ignores it
        yield call


def assert_sound(ends):
    """Crops of the right sizes and type; what Pillow reads, the fast decoders read as well."""
    for name, sample in ends.items():
        if not isinstance(sample, Refusal):
            sizes = [(1, 16)] if name == 'small' else [(2, 16), (1, 8), (1, 8)]
            keys = ['images'] if name == 'small' else ['global_views', 'local_views', 'query_views']
            for (number, size), key in zip(sizes, keys, strict=True):
                views = torch.as_tensor(sample[key])
                assert views.dtype == torch.uint8
                assert tuple(views.reshape(number, 3, size, size).shape) == (number, 3, size, size)
            assert all(what and 'image.png' in which for what, which in sample['lost'])
    assert isinstance(ends['fast'], Refusal) <= isinstance(ends['pillow'], Refusal), (ends['fast'], 'but Pillow reads it')


@pytest.mark.parametrize('name', sorted(FILES))
def test_whole_files_are_read_by_every_reader(name, read):
    ends = read(FILES[name])
    assert_sound(ends)
    if name in OF_NO_RANGE:
        assert 'unknown range' in ends['fast']
        assert 'unknown range' in ends['pillow']
        return
    assert not isinstance(ends['fast'], Refusal)
    assert not isinstance(ends['pillow'], Refusal)
    image, lost = read_by_pillow(FILES[name])
    fast = EncodedImage(FILES[name], name)
    assert np.array_equal(fast.decode(), np.asarray(image))
    assert fast.lost == lost


@given(damaged(FILES))
def test_damaged_files_are_read_or_refused(read, file):
    assert_sound(read(file[1]))


@given(damaged({name: data for name, data in FILES.items() if name.startswith('png')}))
def test_damaged_chunks_with_true_checksums(read, file):
    assert_sound(read(with_true_sums(file[1])))


@given(lying())
def test_headers_that_lie_cost_neither_time_nor_memory(read, file):
    assert_sound(read(file[1]))


@given(damaged({'tiff pages': FILES['tiff pages'], 'jpeg turned': FILES['jpeg turned'], 'png turned': FILES['png turned']}))
def test_blocks_of_tags(read, file):
    assert_sound(read(file[1]))


@given(damaged(FILES) | lying())
def test_checks_of_damaged_files_say_what_is_wrong(read, file):
    read.path.write_bytes(file[1])
    for name, dataset in read.datasets.items():
        lines = outcome(lambda dataset=dataset: list(image_problems(dataset)))
        assert len(lines) <= 1, name
        assert all(str(read.path) in line for line in lines)
    problem = outcome(lambda: size_problem(Path(read.path), WIDTH, HEIGHT))
    assert problem is None or str(read.path) in problem
    size = outcome(lambda: size_as_displayed(read.path))
    assert size is None or min(size) > 0
    outcome(lambda: hidden_turn(read.path))


def zeros(width, height):
    """A PNG of zeros, small as a file."""

    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    rows = bytes(1000 * (1 + 3 * width))
    packed = b''.join(packer.compress(rows) for _ in range(height // 1000)) + packer.flush()
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', packed) + chunk(b'IEND', b'')


def test_pixels_that_are_there_but_too_many_are_not_decoded(read):
    data = zeros(20_000, 10_000)
    assert len(data) < 2**22
    ends = read(data)
    assert all(isinstance(end, Refusal) for end in ends.values())
    assert 'max_pixels' in ends['fast']
