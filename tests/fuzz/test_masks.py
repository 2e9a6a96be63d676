"""Label maps of every format, depth and size, damaged and with any labels: read as they are, or refused with their name."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from mmengine.registry import DefaultScope
from PIL import Image
from strategies import Refusal, damaged, outcome

from mmadclr.datasets import MaskedImageDataset
from mmadclr.datasets.checks import check_dataset
from mmadclr.datasets.label_maps import LABEL_MODES, count_labels, open_label_map
from mmadclr.datasets.loaders import Loading, mask_labels

WIDTH, HEIGHT = 20, 14
LABELS = np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH) // 50
SIZE = 10


def saved(image, kind='png', **kwargs):
    buffer = io.BytesIO()
    image.save(buffer, kind, **kwargs)
    return buffer.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


GRAY = Image.fromarray(LABELS.astype(np.uint8))
PALETTE = Image.fromarray(LABELS.astype(np.uint8))
PALETTE.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
FILES = {
    'gray': saved(GRAY),
    'palette': saved(PALETTE),
    'bits': saved(Image.fromarray(LABELS > 2)),
    'deep': saved(Image.fromarray(LABELS.astype(np.uint16))),
    'color': saved(GRAY.convert('RGB')),
    'alpha': saved(GRAY.convert('LA')),
    'turned': saved(GRAY, exif=turned()),
    'bmp': saved(GRAY, 'bmp'),
    'gif': saved(PALETTE, 'gif'),
    'tiff': saved(GRAY, 'tiff'),
    'tiff pages': saved(GRAY, 'tiff', save_all=True, append_images=[GRAY]),
    'tiff real': saved(Image.fromarray(LABELS.astype(np.float32)), 'tiff'),
    'tiff signed': saved(Image.fromarray(LABELS.astype(np.int32)), 'tiff'),
    'tiff deep': cv2.imencode('.tif', LABELS.astype(np.uint16))[1].tobytes(),
    'jpeg': saved(GRAY, 'jpeg'),
    'webp': saved(GRAY.convert('RGB'), 'webp', lossless=True),
    'pgm': saved(GRAY, 'ppm'),
}


def with_empty_page(data):
    """A TIFF with a second page of no tags."""
    start = struct.unpack_from('<I', data, 4)[0]
    end = start + 2 + 12 * struct.unpack_from('<H', data, start)[0]
    return data[:end] + struct.pack('<I', len(data)) + data[end + 4 :] + bytes(6)


EMPTY_PAGE = 'empty page', with_empty_page(FILES['tiff'])  # at which Pillow raises a TypeError


@st.composite
def drawn(draw):
    """A mask of any labels, depth and size."""
    width, height = draw(st.sampled_from([(WIDTH, HEIGHT), (HEIGHT, WIDTH), (1, 1), (WIDTH, HEIGHT + 1)]))
    dtype = draw(st.sampled_from([np.uint8, np.uint16, np.int32]))
    values = st.sampled_from([0, 1, 2, 5, 254, 255, 256, 65_535, 2**31 - 1, -1])
    allowed = [
        value for value in draw(st.lists(values, min_size=1, max_size=4)) if np.can_cast(np.min_scalar_type(value), dtype)
    ]
    array = np.resize(np.array(allowed or [0], dtype), (height, width))
    return 'drawn', saved(Image.fromarray(array), 'tiff' if dtype is np.int32 else 'png')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """A folder with an image and a place for its mask, and a second pair that is sound."""
    root = tmp_path_factory.mktemp('masks')
    for folder in ('img', 'mask'):
        (root / folder).mkdir()
    for number in range(2):
        Image.new('RGB', (WIDTH, HEIGHT)).save(root / 'img' / f'{number}.jpg')
        (root / 'mask' / f'{number}.png').write_bytes(FILES['gray'])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, 'MAX_IMAGE_PIXELS', 2**22)
        yield root


def put(root, file):
    path = root / 'mask' / '0.png'
    path.write_bytes(file[1])
    return path


@example(EMPTY_PAGE)
@example(('unfinished', FILES['palette'][:-30]))  # Pillow reads it or says more than OpenCV does
@given(damaged(FILES) | drawn())
def test_label_maps(root, file):
    path = put(root, file)
    image = outcome(lambda: open_label_map(path, 'image.jpg'), str(path))
    for backend in ('pillow', 'cv2'):
        labels = outcome(lambda backend=backend: mask_labels(path, 'image.jpg', Loading(mask_backend=backend)), str(path))
        assert isinstance(image, Refusal) <= isinstance(labels, Refusal)
        if not isinstance(labels, Refusal):
            assert image.mode in LABEL_MODES
            assert labels.shape == image.size[::-1]
            assert np.array_equal(labels, np.asarray(image))
            counts = count_labels(labels)
            assert sum(counts.values()) == labels.size
            assert set(counts) == set(labels.ravel().tolist())


SETTINGS = st.fixed_dictionaries(
    dict(num_classes=st.integers(1, 8), ignore_index=st.sampled_from([255, 0, -1, 5]), reduce_zero_label=st.booleans())
)


@example(EMPTY_PAGE, dict(num_classes=6, ignore_index=255, reduce_zero_label=False))
@given(file=damaged(FILES) | drawn() | st.sampled_from(sorted(FILES.items())), settings=SETTINGS)
def test_masks_of_a_probe(root, file, settings):
    path = put(root, file)
    dataset = MaskedImageDataset(str(root), 'img', 'mask', SIZE, **settings)
    mask = outcome(lambda: dataset.mask(0), str(path))
    if not isinstance(mask, Refusal):
        assert mask.dtype == torch.int64
        assert tuple(mask.shape) == (SIZE, SIZE)
        assert mask.min() >= -1
        assert mask.max() < settings['num_classes']
    present = outcome(dataset.check_classes, str(root / 'mask'))
    if isinstance(present, Refusal):
        return
    assert not isinstance(mask, Refusal)
    assert len(present) > 1
    assert present >= set(mask.unique().tolist()) - {-1}


@pytest.mark.dense
@given(file=damaged(FILES) | drawn(), settings=SETTINGS, bad_image=st.booleans())
def test_masks_in_the_check(root, file, settings, bad_image):
    path = put(root, file)
    image = root / 'img' / '0.jpg'
    sound = image.read_bytes()
    classes = [f'class {number}' for number in range(settings.pop('num_classes'))]
    cfg = dict(type='BaseSegDataset', data_root=str(root), data_prefix=dict(img_path='img', seg_map_path='mask'))
    cfg |= dict(metainfo=dict(classes=classes), **settings)
    try:
        if bad_image:
            image.write_bytes(file[1])
        with DefaultScope.overwrite_default_scope('mmseg'):
            end = outcome(lambda: check_dataset(cfg), str(path), str(root / 'mask'), lines=True)
    finally:
        image.write_bytes(sound)
    if not isinstance(end, Refusal):
        labels = set(np.asarray(Image.open(path)).ravel().tolist())
        shift = int(settings['reduce_zero_label'])
        ignored = {0, 255} if shift else {settings['ignore_index']}
        assert labels <= ignored | {number + shift for number in range(len(classes))}
        assert bad_image or Image.open(path).size == (WIDTH, HEIGHT)
