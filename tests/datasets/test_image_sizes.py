"""Images that are too large, cut off, or a thousand times longer than wide: an option, a message, and bounded memory."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from image_files import RNG, TRANSPARENT, pages, png, pnm, saved, tiff, values
from PIL import Image
from programs import python

from mmadclr.datasets import ResizeCenterCrop, center_crop
from mmadclr.datasets.any_image import read_rgb
from mmadclr.datasets.decoding import EncodedImage
from mmadclr.datasets.pixels import DecodeError, pixel_options


@pytest.mark.parametrize('kind', ['png', 'jpeg', 'bmp', 'tiff', 'ppm', 'gif', 'webp', 'png 16', 'tiff 16', 'ppm 16'])
def test_images_above_the_limit_name_the_option(kind, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 300)  # twice that is the limit; an image here has 744
    (image,) = pages(1)
    deep = values(0, 65535, 3)
    special = {
        'png 16': lambda: png(deep),
        'tiff 16': lambda: tiff(deep, photometric='rgb'),
        'ppm 16': lambda: pnm(deep, 65535),
    }
    data = special[kind]() if kind in special else saved(image, kind)
    with pytest.raises(DecodeError, match='(?i)set max_pixels of the data set'):
        EncodedImage(data, kind).decode()
    with pytest.raises(DecodeError, match='31x24 pixels exceed the limit of 743: set max_pixels'):
        EncodedImage(data, kind, pixel_options(max_pixels=743)).decode()
    pixels = EncodedImage(data, kind, pixel_options(max_pixels=744)).decode()
    monkeypatch.undo()
    assert np.array_equal(pixels, EncodedImage(data, kind).decode())


def test_a_lower_limit_than_that_of_pillow(monkeypatch):
    data = saved(pages(1)[0], 'jpeg')
    with pytest.raises(DecodeError, match='31x24 pixels exceed the limit of 700'):
        EncodedImage(data, 'a', pixel_options(max_pixels=700)).decode()


def test_headers_that_lie_about_bands_are_errors():
    data = bytearray(tiff(values(0, 255, 5, 'uint8'), planarconfig='contig'))
    place = data.index(struct.pack('<HHI', 277, 3, 1)) + 8
    data[place : place + 2] = struct.pack('<H', 65535)
    with pytest.raises((DecodeError, OSError, ValueError)):
        read_rgb(bytes(data), pixel_options(bands=(0, 1, 2)))


@pytest.mark.parametrize('name', ['png deep', 'png deep gray', 'ppm', 'ppm text', 'tiff color', 'tiff bands', 'tiff float'])
def test_cut_files_are_errors(name):
    data = {
        'ppm': lambda: pnm(values(0, 65535, 3), 65535),
        'ppm text': lambda: pnm(values(0, 65535, 3), 65535, text=True),
        'tiff color': lambda: tiff(values(0, 65535, 3), photometric='rgb'),
        'tiff bands': lambda: tiff(values(0, 65535, 5), planarconfig='contig'),
        'tiff float': lambda: tiff(values(0, 1, 3, 'float32'), photometric='rgb'),
        **{kind: (lambda kind=kind: TRANSPARENT[kind]) for kind in TRANSPARENT},
    }[name]()
    for end in (len(data) // 2, len(data) * 3 // 4, 40, 9):
        with pytest.raises(DecodeError):
            EncodedImage(data[:end], name, pixel_options(bands=(0, 1, 0), value_range=(0, 65535))).decode()


STRIP = """
import resource, sys
from itertools import product
import numpy as np
from PIL import Image
from mmadclr.datasets import ImageDataset
from mmadclr.api import evaluation_transform
folder = sys.argv[1]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name, backend in product(('ResizeCenterCrop', 'MultiCrop'), ('fast', 'pillow')):
    sample = ImageDataset(folder, dict(type=name, backend=backend))
    for index in range(len(sample)):
        assert sample[index]['unreadable'] == []
transform = evaluation_transform(224, (0.5,) * 3, (0.5,) * 3)
for size in ((60000, 1), (1, 60000)):
    assert transform(Image.new('RGB', size)).shape == (3, 224, 224)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_strips_cost_no_gigabytes(tmp_path):
    for number, size in enumerate(((60000, 1), (1, 60000), (60000, 3))):
        for kind in ('png', 'jpg', 'tif'):
            Image.new('RGB', size, (9, 99, 199)).save(tmp_path / f'{number}.{kind}')
    program = tmp_path / 'strip.py'
    program.write_text(STRIP)
    done = python(program, tmp_path)
    assert int(done.stdout.split()[-1]) < 300  # MB


@pytest.mark.parametrize('backend', ['fast', 'pillow'])
@pytest.mark.parametrize('size', [(700, 37), (41, 900), (90, 60), (64, 64)])
def test_the_middle_of_a_long_image_is_what_the_whole_gives(size, backend, monkeypatch):
    image = Image.fromarray(RNG.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    transform = ResizeCenterCrop(resize=40, size=32, backend=backend)
    monkeypatch.setattr(center_crop, 'MAX_RESIZED', 10**9)
    whole = transform({'image': image})['images']
    monkeypatch.setattr(center_crop, 'MAX_RESIZED', 0)
    part = transform({'image': image})['images']
    assert abs(whole.int() - part.int()).max() <= 1


@pytest.mark.parametrize('options', [{}, dict(tile=(16, 16)), dict(planarconfig='separate', photometric='rgb')])
def test_tiff_headers_that_claim_more_rows_than_there_are_strips_are_errors(options):
    """Pillow would read them, and leave the rest black."""
    data = bytearray(tiff(values(0, 65535, 3 if 'photometric' in options else 0), **options))
    place = next(i for i in range(8, len(data)) if data[i : i + 2] == struct.pack('<H', 257)) + 8
    data[place : place + 4] = struct.pack('<I', 100_000)
    with pytest.raises(DecodeError, match='truncated or broken|ends before the pixels do|exceed the limit'):
        EncodedImage(bytes(data), 'a.tif').decode()


def test_png_headers_that_claim_more_than_can_be_there_take_no_memory(monkeypatch):
    data = bytearray(png(values(0, 65535, 3)))
    data[16:24] = struct.pack('>II', 12_000, 12_000)
    monkeypatch.setattr('mmadclr.datasets.deep_formats.cv2', None)  # is not even asked
    with pytest.raises(DecodeError, match='the PNG is truncated or broken'):
        EncodedImage(bytes(data), 'a.png').decode()


def test_png_chunks_that_claim_to_be_longer_than_the_file_take_no_memory(monkeypatch):
    """OpenCV, which would take it, is not asked; Pillow, which is for the plain one, finds that the pixels are all there."""
    for module in ('deep_formats', 'decoding'):
        monkeypatch.setattr(f'mmadclr.datasets.{module}.cv2', None)
    claimed = []
    for data in (saved(pages(1)[0], 'png'), png(values(0, 65535, 3))):
        place = data.index(b'IDAT') - 4
        claimed.append(data[:place] + struct.pack('>I', 2**31 - 1) + data[place + 4 :])
    assert EncodedImage(claimed[0], 'a.png').fallbacks == ['a.png: decoded by Pillow (OpenCV cannot read it)']
    with pytest.raises(DecodeError, match='the PNG is truncated or broken'):
        EncodedImage(claimed[1], 'a.png').decode()
