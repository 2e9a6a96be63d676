"""Fast decoders give Pillow's pixels, and what they refuse is Pillow's to read or to call broken."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps
from programs import python

from mmadclr.datasets import ImageDataset, decoding
from mmadclr.datasets.decoding import DecodeError, EncodedImage, Scratch, decode_by_opencv, load_rgb

CROPS = dict(type='MultiCrop', global_size=16, local_size=8, query_size=8, num_local=2, num_query=2)


def picture(mode='RGB', size=(61, 45)):
    coarse = np.random.default_rng(0).integers(0, 256, (9, 12, 4), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    if mode == 'I;16':  # of which the lower 8 bits alone would be of an unknown range
        return Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 257)
    return image.convert('RGB').quantize() if mode == 'P' else image.convert(mode)


def encoded(mode, kind, **options):
    buffer = io.BytesIO()
    picture(mode).save(buffer, kind, **options)
    return buffer.getvalue()


FILES = {
    'jpeg': encoded('RGB', 'jpeg', quality=90),
    'jpeg 444': encoded('RGB', 'jpeg', subsampling=0),
    'jpeg progressive': encoded('RGB', 'jpeg', progressive=True),
    'jpeg gray': encoded('L', 'jpeg'),
    'jpeg in rgb': encoded('RGB', 'jpeg', keep_rgb=True),
    'png': encoded('RGB', 'png'),
    'png alpha': encoded('RGBA', 'png'),
    'png gray alpha': encoded('LA', 'png'),
    'png palette': encoded('P', 'png'),
    'png transparent palette': encoded('P', 'png', transparency=3),
    'png transparent color': encoded('RGB', 'png', transparency=(0, 0, 0)),
    'png bits': encoded('1', 'png'),
    'bmp': encoded('RGB', 'bmp'),
    'bmp palette': encoded('P', 'bmp'),
    'webp': encoded('RGB', 'webp'),
    'webp lossless alpha': encoded('RGBA', 'webp', lossless=True),
}
LEFT_TO_PILLOW = {
    'tiff': encoded('RGB', 'tiff'),
    'gif': encoded('P', 'gif'),
    'ppm': encoded('RGB', 'ppm'),
    'webp alpha': encoded('RGBA', 'webp', quality=80),
    'png 16 bits': encoded('I;16', 'png'),
}
CMYK = encoded('CMYK', 'jpeg')


def by_pillow(data):
    return np.asarray(load_rgb(io.BytesIO(data)))


@pytest.fixture
def no_pillow(monkeypatch):
    monkeypatch.setattr(decoding, 'read_by_pillow', lambda *_: pytest.fail('Pillow was asked'))


@pytest.mark.parametrize('name', FILES)
def test_fast_decoders_give_the_pixels_of_pillow(name, no_pillow):
    image = EncodedImage(FILES[name], name)
    assert image.size == (61, 45)
    assert np.array_equal(image.decode(), by_pillow(FILES[name]))
    assert image.fallbacks == []


@pytest.mark.parametrize('name', LEFT_TO_PILLOW)
def test_other_kinds_go_to_pillow_and_say_so(name):
    image = EncodedImage(LEFT_TO_PILLOW[name], name)
    assert np.array_equal(image.decode(), by_pillow(LEFT_TO_PILLOW[name]))
    assert image.fallbacks == [f'{name}: decoded by Pillow (unsupported by OpenCV)']


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['jpeg', 'png', 'webp', 'tiff'])
def test_images_are_turned_upright(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded('RGB', kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert('RGB')
    image = EncodedImage(data, kind)
    assert image.size == expected.size == ((45, 61) if orientation >= 5 else (61, 45))
    assert np.array_equal(image.decode(), expected)
    assert np.array_equal(by_pillow(data), expected)
    scratched = image.decode(scratch=Scratch())
    assert np.array_equal(scratched, expected)
    assert scratched.flags.c_contiguous
    if kind == 'jpeg':
        half = image.decode(2)
        assert half.shape[1::-1] == tuple(-(-side // 2) for side in image.size)


def test_broken_orientation_blocks_turn_nothing():
    plain = encoded('RGB', 'jpeg')
    for block in (b'Exif\0\0', b'Exif\0\0garbage', b'Exif\0\0MM\0*\xff\xff\xff\xff'):
        image = EncodedImage(encoded('RGB', 'jpeg', exif=block), 'a.jpg')
        assert np.array_equal(image.decode(), by_pillow(plain))


def damaged_but_readable(data):
    """One byte changed such that libjpeg warns: simplejpeg refuses the file, Pillow reads it."""
    for place in range(len(data) // 2, len(data) - 2):
        changed = data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]
        try:
            by_pillow(changed)
            simplejpeg.decode_jpeg(changed)
        except ValueError:
            return changed
        except OSError:
            continue
    raise AssertionError('no such byte')


def test_what_the_fast_decoder_refuses_and_pillow_reads_is_named():
    broken = damaged_but_readable(FILES['jpeg progressive'])
    image = EncodedImage(broken, 'a.jpg')
    assert np.array_equal(image.decode(), by_pillow(broken))
    (message,) = image.fallbacks
    assert message.startswith('a.jpg: decoded by Pillow (simplejpeg: Corrupt JPEG data')
    image = EncodedImage(CMYK, 'b.jpg')
    assert np.array_equal(image.decode(), by_pillow(CMYK))
    assert image.fallbacks == ['b.jpg: decoded by Pillow (it has CMYK colors)']
    cut = FILES['png'][:-14]  # the end marker is gone, the pixels are all there
    assert EncodedImage(cut, 'c.png').fallbacks == ['c.png: decoded by Pillow (OpenCV cannot read it)']


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('with_simplejpeg', [True, False])
def test_cut_files_are_errors_not_gray_areas(name, with_simplejpeg, monkeypatch):
    if not with_simplejpeg:
        monkeypatch.setattr(decoding, 'simplejpeg', None)
    data = FILES[name]
    for end in (0, 1, 2, 30, len(data) // 2):
        with pytest.raises(DecodeError):
            EncodedImage(data[:end], name).decode()


def test_absurd_sizes_are_left_to_pillow(monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    for name in ('jpeg', 'png', 'bmp'):
        with pytest.raises(DecodeError, match='decompression bomb'):
            EncodedImage(FILES[name], name).decode()


def test_opencv_takes_jpeg_where_simplejpeg_is_missing(monkeypatch):
    monkeypatch.setattr(decoding, 'simplejpeg', None)
    for name in ('jpeg', 'jpeg gray', 'jpeg progressive'):
        assert decoding.opencv_agrees_with_pillow(FILES[name])
        got = EncodedImage(FILES[name], name)
        assert abs(got.decode().astype(int) - by_pillow(FILES[name])).max() <= 2
        assert got.fallbacks == []
    assert not decoding.opencv_agrees_with_pillow(CMYK)
    assert 'decoded by Pillow' in EncodedImage(CMYK, 'b.jpg').fallbacks[0]


def test_missing_simplejpeg_is_said_once(image_folder, monkeypatch):
    said = []
    monkeypatch.setattr(decoding, 'simplejpeg', None)
    monkeypatch.setattr(decoding, 'print_log', lambda message, *_: said.append(message))
    decoding.warn_without_simplejpeg.cache_clear()
    root = image_folder(count=2)
    for _ in range(2):
        ImageDataset(root, CROPS)
    decoding.warn_without_simplejpeg.cache_clear()
    assert len(said) == 1
    assert said[0].startswith('simplejpeg is not installed: OpenCV decodes JPEG')


@pytest.mark.parametrize('shrink', [2, 4, 8])
def test_shrunk_jpeg_is_the_averaged_image(shrink):
    buffer = io.BytesIO()
    picture(size=(160, 120)).save(buffer, 'jpeg', quality=95)
    whole = EncodedImage(buffer.getvalue(), '').decode().astype(float)
    got = EncodedImage(buffer.getvalue(), '').decode(shrink)
    means = whole.reshape(120 // shrink, shrink, 160 // shrink, shrink, 3).mean(axis=(1, 3))
    assert got.shape == means.shape
    assert abs(got - means).mean() < 2


def test_scratch_is_used_again_and_grows():
    scratch = Scratch()
    large, small = EncodedImage(FILES['jpeg'], ''), EncodedImage(encoded('L', 'jpeg'), '')
    first = large.decode(scratch=scratch)
    second = small.decode(scratch=scratch)
    assert np.shares_memory(first, second)
    assert np.array_equal(second, small.decode())
    assert len(scratch.get(10**6)) == 10**6
    assert np.array_equal(large.decode(scratch=scratch), large.decode())


def test_opencv_refusing_is_none():
    assert decode_by_opencv(FILES['png'][:50]) is None
    assert decode_by_opencv(b'BM not a bitmap') is None


def test_opencv_is_asked_about_known_kinds_alone():
    png, bmp = FILES['png'], FILES['bmp']
    place = png.index(b'IDAT') - 4
    animated = png[:place] + b'\0\0\0\x08acTL' + bytes(12) + png[place:]
    assert decoding.opencv_agrees_with_pillow(png)
    assert not decoding.opencv_agrees_with_pillow(animated)
    assert decoding.opencv_agrees_with_pillow(bmp)
    assert not decoding.opencv_agrees_with_pillow(bmp[:28] + b'\x10\0' + bmp[30:])  # 5 bits a color
    assert not any(decoding.opencv_agrees_with_pillow(png[:length]) for length in range(1, 24))


AFTER_A_FORK = """
import os, sys, time
import cv2, numpy as np
from mmadclr.datasets.decoding import use_one_thread
cv2.setNumThreads(3)
cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (31, 31), 5)  # starts the pool
child = os.fork()
if child == 0:
    use_one_thread()
    os._exit(7)
end = time.monotonic() + 20
while time.monotonic() < end:
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        print(os.waitstatus_to_exitcode(status), cv2.getNumThreads())
        sys.exit()
    time.sleep(0.05)
os.kill(child, 9)
"""


def test_workers_of_a_process_that_has_used_opencv_do_not_wait_for_its_threads(tmp_path):
    (tmp_path / 'after_a_fork.py').write_text(AFTER_A_FORK)
    done = python(tmp_path / 'after_a_fork.py', check=False, timeout=60)
    assert done.stdout.split() == ['7', '3'], done.stderr
