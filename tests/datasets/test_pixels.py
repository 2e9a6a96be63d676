"""Depth, bands and pages: what is kept against what was stored, and that nothing is lost without a word."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from image_files import RNG, TRANSPARENT, pages, png, pnm, saved, tiff, values
from PIL import Image

from mmadclr.datasets import ImageDataset, collate_samples
from mmadclr.datasets.accounts import LostAccount
from mmadclr.datasets.any_image import read_rgb
from mmadclr.datasets.decoding import EncodedImage
from mmadclr.datasets.pixels import (
    ALPHA,
    CLIPPED,
    CMYK,
    DEPTH,
    FRAMES,
    DecodeError,
    bands_lost,
    pixel_options,
    to_8_bits,
)

CENTER = dict(type='ResizeCenterCrop', resize=16, size=16)
CROPS = dict(type='MultiCrop', global_size=16, local_size=8, query_size=8, num_local=2, num_query=0)


def read(data, **options):
    image, lost = read_rgb(data, pixel_options(**options))
    assert image.mode == 'RGB'
    return np.asarray(image), lost


def scaled(array, low, high):
    """(H, W, 3) as they should come out, in float64."""
    array = array.astype(np.float64)
    array = np.rint((array - low) / (high - low) * 255).clip(0, 255)
    return np.repeat(array[..., None], 3, axis=2) if array.ndim == 2 else array


# --- depth -----------------------------------------------------------------------------------------------------------------

DEEP = {
    'png gray': lambda bits: (png, values(0, bits)),
    'png color': lambda bits: (png, values(0, bits, 3)),
    'ppm': lambda bits: (lambda a: pnm(a, 65535), values(0, bits, 3)),
    'pgm': lambda bits: (lambda a: pnm(a, 65535), values(0, bits)),
    'ppm text': lambda bits: (lambda a: pnm(a, 65535, text=True), values(0, bits, 3)),
    'tiff gray': lambda bits: (tiff, values(0, bits)),
    'tiff big-endian': lambda bits: (lambda a: tiff(a, byteorder='>'), values(0, bits)),
    'tiff color': lambda bits: (lambda a: tiff(a, photometric='rgb'), values(0, bits, 3)),
    'tiff planes': lambda bits: (lambda a: tiff(a, photometric='rgb', planarconfig='separate'), values(0, bits, 3)),
    'bigtiff': lambda bits: (lambda a: tiff(a, bigtiff=True, photometric='rgb'), values(0, bits, 3)),
}


@pytest.mark.parametrize('kind', DEEP)
@pytest.mark.parametrize('bits', [10, 12, 14])
def test_few_bits_in_16_are_an_error_or_brought_to_8_as_told(kind, bits):
    write, array = DEEP[kind](2**bits - 1)
    data = write(array)
    with pytest.raises(DecodeError, match=rf'use only 0 to {2**bits - 1} of 0 to 65535: set value_range=\(low, high\)'):
        read(data)
    pixels, lost = read(data, value_range=(0, 2**bits - 1))
    assert np.array_equal(pixels, scaled(array, 0, 2**bits - 1))
    assert lost == [DEPTH]
    assert len(np.unique(pixels)) > 200
    assert read(data, value_range=(0, 65535))[0].max() == round((2**bits - 1) / 257)  # said to be meant


@pytest.mark.parametrize('kind', DEEP)
def test_all_of_16_bits_give_the_upper_8(kind):
    write, array = DEEP[kind](65535)
    pixels, lost = read(write(array))
    assert np.array_equal(pixels, np.repeat(array[..., None] >> 8, 3, 2) if array.ndim == 2 else array >> 8)
    assert lost == [DEPTH]


@pytest.mark.parametrize('text', [False, True])
@pytest.mark.parametrize('bands', [0, 3])
def test_pnm_declares_its_largest_value(bands, text):
    array = values(0, 4000, bands)
    pixels, _ = read(pnm(array, 4095, text))
    assert np.array_equal(pixels, scaled(array, 0, 4095))


def test_a_tiff_of_12_bits_declares_its_largest_value():
    pytest.importorskip('imagecodecs')
    array = values(0, 4000)
    pixels, _ = read(tiff(array, bitspersample=12))
    assert np.array_equal(pixels, scaled(array, 0, 4095))


SCIENTIFIC = {
    'signed 16 bits': (
        values(-1024, 3071, dtype='int16'),
        'signed 16-bit pixels have an unknown range .here -1024 to 3071',
    ),
    'signed 16 bits, color': (values(-9, 300, 3, 'int16'), 'signed 16-bit pixels have an unknown range'),
    'signed 8 bits': (values(-128, 127, dtype='int8'), 'signed 8-bit pixels have an unknown range'),
    '32 bits': (
        values(0, 2**32 - 1, dtype='uint32'),
        r'32-bit pixels have an unknown range \(here 0 to 4294967295',
    ),
    'signed 32 bits': (values(-70000, 70000, dtype='int32'), 'signed 32-bit pixels'),
    '64 bits': (values(0, 1e6, dtype='uint64'), '64-bit pixels have an unknown range'),
    'floats to 1': (values(0, 1, dtype='float32'), r'floating-point pixels have an unknown range \(here 0 to 1'),
    'floats to 255': (values(0, 255, dtype='float32'), 'floating-point pixels have an unknown range'),
    'floats, color': (values(-3, 7, 3, 'float32'), r'here -3 to 7\): set value_range=\(low, high\)'),
    'half floats': (values(0, 1, dtype='float16'), 'floating-point pixels have an unknown range'),
    'double floats': (values(1e9, 2e9, dtype='float64'), 'here 1e[+]09 to 2e[+]09'),
}


@pytest.mark.parametrize('name', SCIENTIFIC)
def test_ranges_that_nobody_knows_are_not_guessed(name):
    array, message = SCIENTIFIC[name]
    data = tiff(array, photometric='rgb' if array.ndim == 3 else 'minisblack')
    with pytest.raises(DecodeError, match=message):
        read(data)
    low, high = float(array.min()), float(array.max())
    pixels, lost = read(data, value_range=(low, high))
    assert abs(pixels.astype(int) - scaled(array, low, high)).max() <= 1
    assert (pixels.min(), pixels.max(), lost) == (0, 255, [DEPTH])


def test_values_beyond_the_range_are_cut_off_and_said():
    array = np.array([[-5.0, 0.0, 5.0, np.inf]], dtype=np.float32)
    pixels, lost = read(tiff(array), value_range=(0, 10))
    assert pixels[0, :, 0].tolist() == [0, 0, 128, 255]
    assert lost == [DEPTH, CLIPPED]
    with pytest.raises(DecodeError, match='some pixels are NaN'):
        read(tiff(np.array([[1.0, np.nan]], dtype=np.float32)), value_range=(0, 10))


def test_gray_levels_in_which_0_is_white_are_turned_round():
    array = values(0, 65535)
    assert np.array_equal(read(tiff(array, photometric='miniswhite'))[0][..., 0], 255 - (array >> 8))


def test_8_bits_are_left_as_they_are_with_any_range():
    array = values(0, 100, 3, 'uint8')
    for data in (saved(Image.fromarray(array), 'png'), tiff(array, photometric='rgb')):
        pixels, lost = read(data, value_range=(0, 4095))
        assert np.array_equal(pixels, array)
        assert lost == []


def test_large_arrays_are_scaled_by_parts():
    array = RNG.integers(0, 4096, (1000, 7), dtype=np.uint16)
    assert np.array_equal(to_8_bits(array, value_range=(0, 4095))[0], scaled(array, 0, 4095)[..., 0])


# --- bands and pages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('planes', ['contig', 'separate'])
@pytest.mark.parametrize(('bands', 'dtype'), [(2, 'uint8'), (4, 'uint8'), (5, 'uint8'), (7, 'uint8'), (5, 'uint16')])
def test_bands_without_names_are_an_error_or_chosen(bands, dtype, planes):
    array = values(0, 255 if dtype == 'uint8' else 65535, bands, dtype)
    data = tiff(array, planarconfig=planes)
    with pytest.raises(DecodeError, match=rf'{bands} bands, none of which the file declares as red.*set bands=\(r, g, b\)'):
        read(data)
    chosen = bands - 1, 0, 1
    pixels, lost = read(data, bands=chosen)
    assert np.array_equal(pixels, array[..., chosen] if dtype == 'uint8' else array[..., chosen] >> 8)
    assert lost == ([] if dtype == 'uint8' else [DEPTH])
    with pytest.raises(DecodeError, match=rf'bands=\(0, 1, 9\): the file has {bands} bands, numbered from 0'):
        read(data, bands=(0, 1, 9))


def test_bands_beside_colors_are_said():
    array = values(0, 255, 5, 'uint8')
    pixels, lost = read(tiff(array, photometric='rgb', extrasamples=['unspecified'] * 2))
    assert np.array_equal(pixels, array[..., :3])
    assert lost == [bands_lost(5, 3)]
    four = array[..., :4]
    pixels, lost = read(tiff(four, photometric='rgb', extrasamples=['unspecified']))
    assert np.array_equal(pixels, four[..., :3])
    assert lost == ['have 4 bands, of which only the first 3 are used (select others with bands=(r, g, b))']
    assert np.array_equal(
        read(tiff(four, photometric='rgb', extrasamples=['unspecified']), bands=(3, 1, 0))[0], four[..., [3, 1, 0]]
    )


@pytest.mark.parametrize('name', TRANSPARENT)
def test_alpha_channels_are_said_by_every_decoder(name):
    data = TRANSPARENT[name]
    pixels, lost = read(data)
    assert ALPHA in lost
    encoded = EncodedImage(data, name)
    assert np.array_equal(encoded.decode(), pixels)
    assert encoded.lost == lost


def test_alpha_of_16_bits_does_not_tell_the_range():
    array = values(0, 4095, 4)
    array[..., 3] = 65535
    with pytest.raises(DecodeError, match='use only 0 to 4095 of 0 to 65535'):
        read(png(array))
    assert np.array_equal(read(png(array), value_range=(0, 4095))[0], scaled(array[..., :3], 0, 4095))


@pytest.mark.parametrize('kind', ['tiff', 'gif', 'png', 'webp', 'mpo'])
def test_further_pages_are_said_and_the_first_is_read(kind):
    first, *others = pages()
    lossless = dict(lossless=True) if kind == 'webp' else {}
    data = saved(first, kind, save_all=True, append_images=others, **lossless)
    alone = read(saved(first, kind if kind != 'mpo' else 'jpeg', **lossless))
    encoded = EncodedImage(data, kind)
    for pixels, lost in (read(data), (encoded.decode(), encoded.lost)):
        assert FRAMES in lost
        assert np.array_equal(pixels, alone[0])
    assert FRAMES not in alone[1]


def test_pages_of_16_bits():
    array = values(0, 65535)
    assert read(tiff(np.stack([array, array])))[1] == [FRAMES, DEPTH]


def test_cmyk_is_said_and_bands_of_it_can_be_had():
    image = Image.fromarray(values(0, 255, 4, 'uint8'), 'CMYK')
    data = saved(image, 'tiff')
    pixels, lost = read(data)
    assert np.array_equal(pixels, np.asarray(image.convert('RGB')))
    assert lost == [CMYK]
    assert np.array_equal(read(data, bands=(3, 0, 1))[0], np.asarray(image)[..., [3, 0, 1]])


@pytest.mark.parametrize('kind', ['png', 'jpeg', 'bmp', 'webp', 'tiff'])
@pytest.mark.parametrize('backend', ['fast', 'pillow'])
def test_bands_are_chosen_of_every_format_and_gray_stays(tmp_path, kind, backend):
    (first,) = pages(1)
    first.save(tmp_path / f'a.{kind}')
    first.convert('L').save(tmp_path / f'b.{kind}')
    swapped = ImageDataset(str(tmp_path), CROPS | dict(backend=backend), bands=(2, 1, 0))
    plain = ImageDataset(str(tmp_path), CROPS | dict(backend=backend))
    for index in range(2):
        assert torch.equal(swapped[index]['global_views'], plain[index]['global_views'].flip(1))
    gray = plain[1]['global_views']
    assert torch.equal(gray, gray.flip(1))


# --- data sets -------------------------------------------------------------------------------------------------------------


def test_a_data_set_reads_deep_images_as_told_and_names_what_is_lost(tmp_path):
    (tmp_path / 'a.png').write_bytes(png(values(0, 4095)))
    (tmp_path / 'b.png').write_bytes(TRANSPARENT['png'])
    for transform in (CENTER, CROPS, CROPS | dict(backend='pillow')):
        told = ImageDataset(str(tmp_path), transform, value_range=(0, 4095))
        batch = collate_samples(told.__getitems__([0, 1]))
        assert batch['unreadable'] == []
        assert batch['lost'] == [(DEPTH, f'{tmp_path}/a.png'), (ALPHA, f'{tmp_path}/b.png')]
        (message,) = ImageDataset(str(tmp_path), transform)[0]['unreadable']
        assert message.startswith(f'{tmp_path}/a.png: 16-bit pixels use only 0 to 4095 of 0 to 65535: set value_range')


def test_what_is_lost_is_counted_with_the_first_of_each_kind():
    account = LostAccount()
    account.add([(ALPHA, 'a'), (DEPTH, 'b')])
    account.add([(ALPHA, 'c')])
    assert account.of_all_processes().lines() == [
        f'2 images {ALPHA} (the first: a)',
        f'1 images {DEPTH} (the first: b)',
    ]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(value_range=(5, 5)), r'value_range=\(5.0, 5.0\) must be two ascending numbers, the values of black and white'),
        (dict(value_range=(0, float('nan'))), 'value_range='),
        (dict(value_range=(1,)), 'value_range='),
        (dict(bands=(0, 1)), r'bands=\(0, 1\) must be three indices, from 0'),
        (dict(bands=(0, 1, -1)), 'bands='),
        (dict(max_pixels=0), 'max_pixels=0 must be at least 1'),
    ],
)
def test_options_that_cannot_be_meant_are_errors(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        ImageDataset(str(tmp_path), CENTER, **options)
