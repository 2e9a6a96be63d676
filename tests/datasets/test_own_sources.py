"""Custom sources: what they may return, errors in their definition, and the effect of their errors on a run."""

import io
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from PIL import Image

from mmadclr.config.check import ConfigError, check_config
from mmadclr.config.loading import check_secrets
from mmadclr.datasets import ImageDataset, Source, UnreadableImageError
from mmadclr.datasets.own_sources import MEMBERS, build_source, described
from mmadclr.datasets.remote import StoreError
from mmadclr.registry import IMAGE_SOURCES

CENTER = dict(type='ResizeCenterCrop', resize=16, size=16)
CROPS = dict(type='MultiCrop', global_size=16, local_size=8, query_size=8, num_local=2, num_query=2)


class Items(Source):
    """What a list holds: bytes, arrays, or errors, which are raised."""

    def __init__(self, items, labels=None, classes=()):
        self.items, self.labels, self.classes = items, labels, classes

    def __len__(self):
        return len(self.items)

    def name(self, index):
        return f'item {index}'

    def read(self, index):
        item = self.items[index]
        if isinstance(item, Exception):
            raise item
        return item


class Remote(Items):
    """Images behind a URL."""

    def __init__(self, url):
        super().__init__([url])


class Failing(Items):
    """One that raises what it is told to."""

    def __init__(self, error):
        raise error


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(IMAGE_SOURCES, '_module_dict', {'Items': Items, 'Remote': Remote, 'Failing': Failing})


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)


def encoded(image, form='PNG', **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def views(item, transform=CENTER, **options):
    sample = ImageDataset(source=Items([item]), transform=transform, **options)[0]
    return sample['images' if transform['type'] == 'ResizeCenterCrop' else 'global_views'], sample['lost']


# --- what is read ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('backend', ['fast', 'pillow'])
@pytest.mark.parametrize('transform', [CENTER, CROPS], ids=['center', 'crops'])
def test_arrays_are_what_a_file_of_them_would_be(pixels, transform, backend):
    transform = dict(transform, backend=backend)
    expected, _ = views(encoded(Image.fromarray(pixels)), transform)
    for item in (pixels, bytearray(encoded(Image.fromarray(pixels))), memoryview(encoded(Image.fromarray(pixels)))):
        found, lost = views(item, transform)
        assert torch.equal(found, expected)
        assert lost == []


def test_arrays_on_the_way_to_a_device_are_whole(pixels):
    dataset = ImageDataset(source=Items([pixels, pixels[:9]]), transform=dict(CROPS, backend='device'))
    for sample, expected in zip(dataset.__getitems__([0, 1]), (pixels, pixels[:9]), strict=True):
        assert np.array_equal(sample['image_pixels'], expected)


def test_arrays_of_other_depth_and_bands_take_the_options_of_files(pixels):
    gray = pixels[..., 0]
    expected, _ = views(encoded(Image.fromarray(gray)))
    for item in (gray, gray[..., None]):
        assert torch.equal(views(item)[0], expected)
    floats, lost = views(gray.astype(np.float32) / 255, value_range=(0, 1))
    assert torch.equal(floats, expected)
    assert [(loss, name) for loss, name in lost if '8 bits' in loss] == [
        ('have more than 8 bits per value, of which 8 are kept', 'item 0')
    ]
    chosen, _ = views(np.concatenate((pixels, pixels), axis=2), bands=(5, 1, 3))
    assert torch.equal(chosen, views(pixels[..., [2, 1, 0]])[0])


@pytest.mark.parametrize(
    ('shape', 'dtype', 'message'),
    [
        (
            (7,),
            np.uint8,
            r'an array of shape \(7,\) is not an image: it must be \(height, width\) or \(height, width, bands\)',
        ),
        ((0, 4, 3), np.uint8, r'an array of shape \(0, 4, 3\) is not an image'),
        ((3, 20, 24), np.uint8, r'24 bands, .*set bands='),
        ((20, 24), np.float32, r'unknown range .*set value_range='),
        ((20, 24), bool, 'pixels of dtype bool'),
    ],
)
def test_arrays_that_are_no_image_are_unreadable(shape, dtype, message):
    with pytest.raises(UnreadableImageError, match=f'item 0: .*{message}'):
        views(np.zeros(shape, dtype))


def test_large_arrays_obey_the_limit(pixels):
    with pytest.raises(UnreadableImageError, match='24x20 pixels exceed the limit of 479'):
        views(pixels, max_pixels=479)


@pytest.mark.parametrize(
    'error',
    [
        OSError('gone'),
        KeyError('gone'),
        ValueError('gone'),
        RuntimeError('gone'),
        type('OwnError', (Exception,), {})('gone'),
    ],
)
def test_an_image_that_cannot_be_read_is_replaced_and_named(pixels, error):
    dataset = ImageDataset(source=Items([error, pixels, b'no image']), transform=CENTER)
    (sample,) = dataset.__getitems__([0])
    assert sample['index'] == 1
    (message,) = sample['unreadable']
    assert re.fullmatch(r"item 0: (\w+: )?'?gone'?", message)
    assert dataset[2]['unreadable'] == ['item 2: cannot identify image file', message]


def test_an_image_that_is_not_there_is_replaced_and_named(pixels):
    sample = ImageDataset(source=Items([None, pixels]), transform=CENTER)[0]
    assert sample['unreadable'] == ['item 0: read returned None']


def test_a_source_of_which_nothing_can_be_read_is_named():
    dataset = ImageDataset(source=dict(type='Items', items=[b''] * 3), transform=CENTER)
    with pytest.raises(
        UnreadableImageError, match=r'3 consecutive images of 3 in Items\(items=.* the first: item 0: cannot'
    ):
        dataset[0]


@pytest.mark.parametrize(
    'error', [TypeError('bug'), NameError('bug'), AttributeError('bug'), MemoryError('bug'), StoreError('bug')]
)
def test_mistakes_in_the_program_and_failing_stores_end_the_run(pixels, error):
    dataset = ImageDataset(source=Items([error, pixels]), transform=CENTER)
    with pytest.raises(type(error), match='bug'):
        dataset[0]


@pytest.mark.parametrize('item', [7, 'path.jpg', Image.new('RGB', (9, 9))])
def test_what_is_neither_bytes_nor_array_is_named(item):
    name = type(item).__name__
    with pytest.raises(TypeError, match=rf'Items\.read\(0\) returned {name} for item 0: it must return the bytes'):
        views(item)


# --- how it is built -------------------------------------------------------------------------------------------------------


def test_labels_are_used_where_they_are_asked_for(pixels):
    source = Items([pixels] * 3, np.array([1, 0, 1]), np.array(['a', 'b']))
    labeled = ImageDataset(source=source, transform=CENTER, with_label=True)
    assert labeled.labels.tolist() == [1, 0, 1]
    assert [labeled[index]['label'] for index in range(3)] == [1, 0, 1]
    assert labeled.metainfo == dict(classes=('a', 'b'))
    unlabeled = ImageDataset(source=source, transform=CENTER)
    assert unlabeled.labels is None
    assert 'label' not in unlabeled[0]


@pytest.mark.parametrize(
    ('labels', 'classes', 'message'),
    [
        (None, (), r'source Items has no labels: set them, or with_label=False'),
        ([0, 1], 'ab', r'labels must be a NumPy array, int64 \(2,\), one per image, not list'),
        (np.array([0, 1, 1]), 'ab', r'one per image, not int64 \(3,\)'),
        (np.array([0, 1], dtype=np.int32), 'ab', r'one per image, not int32 \(2,\)'),
        (np.array([0.0, 1.0]), 'ab', r'one per image, not float64 \(2,\)'),
        (np.array([0, 2]), 'ab', 'labels range from 0 to 2, but must be indices into the 2 classes'),
        (np.array([-1, 1]), 'ab', 'labels range from -1 to 1, but must be indices into the 2 classes'),
        (np.array([0, 1]), (), 'labels range from 0 to 1, but must be indices into the 0 classes'),
    ],
)
def test_labels_that_do_not_fit_are_explained(pixels, labels, classes, message):
    with pytest.raises(ValueError, match=message):
        build_source(Items([pixels] * 2, labels, classes), with_label=True)


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        (dict(items=[b'']), r"source={'items': \[b''\]} has no type: set it to the class that reads the images"),
        (
            dict(type='Itms', items=[b'']),
            r"source\.type='Itms': no such class in IMAGE_SOURCES; register it .*custom_imports",
        ),
        (dict(type='Items', itms=[b'']), r"source Items\(.*\): Items cannot be built: .*'items'"),
        (dict(type='Items', items=[]), r'source Items\(items=\[\]\) has no images'),
        (dict(type=Failing, error=FileNotFoundError('a.db')), r'source Failing\(.*\): a\.db'),
        (dict(type='Failing', error=KeyError('images')), r"source Failing\(.*\): KeyError: 'images'"),
    ],
)
def test_configs_that_cannot_be_built_are_explained(source, message):
    for config in (source, ConfigDict(source)):
        with pytest.raises(ValueError, match=message):
            ImageDataset(source=config, transform=CENTER)


def test_a_mistake_in_a_constructor_keeps_its_traceback():
    with pytest.raises(AttributeError, match='bug'):
        build_source(dict(type='Failing', error=AttributeError('bug')), with_label=False)


@pytest.mark.parametrize('member', MEMBERS)
def test_classes_that_do_not_derive_from_source_are_told_what_they_lack(member):
    members = {name: getattr(Items([b'']), name, None) for name in MEMBERS if name != member}
    members |= {'__len__': lambda self: 1} if member != '__len__' else {}
    with pytest.raises(ValueError, match=f'source Lacking has no {member}: derive the class from mmadclr.datasets.Source'):
        build_source(type('Lacking', (), members)(), with_label=False)


def test_names_that_are_no_text_are_explained():
    numbered = type('Numbered', (Items,), {'name': lambda self, index: index})
    with pytest.raises(ValueError, match=r'source Numbered: name\(0\) must be a str, not 0'):
        build_source(numbered([b'']), with_label=False)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(), 'data_root is missing: set it to the folder of the images, or set source'),
        (
            dict(data_root='a', source=dict(type='Items')),
            r"data_root='a' and source=Items\(\): set only one of them, here data_root=None",
        ),
        (
            dict(ann_file='b', shards='c', source=dict(type='Items')),
            r"ann_file='b', shards='c' and .*here ann_file=None, shards=None",
        ),
    ],
)
def test_images_come_from_one_place(settings, message):
    with pytest.raises(ValueError, match=message):
        ImageDataset(**settings, transform=CENTER)
    with pytest.raises(ValueError, match='transform of the data set is missing'):
        ImageDataset(**settings)


def test_secrets_in_urls_come_from_the_environment(monkeypatch):
    monkeypatch.setenv('DATABASE_PASSWORD', 'secret')
    config = dict(type='Remote', url='postgres://me:$DATABASE_PASSWORD@host/photos')
    assert build_source(config, with_label=False).items == ['postgres://me:secret@host/photos']
    assert described(config) == "Remote(url='postgres://host/photos')"
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type='ImageDataset', source=config))))
    check_secrets(cfg)
    cfg.train_dataloader.dataset.source.url = 'postgres://me:secret@host/photos'
    with pytest.raises(ConfigError, match=r'source\.url: postgres://host/photos has a password or a query'):
        check_secrets(cfg)


def test_a_class_without_constructor_takes_no_arguments(monkeypatch):
    class Fixed(Items):
        __init__ = object.__init__
        items = (b'',)

    monkeypatch.setitem(IMAGE_SOURCES._module_dict, 'Fixed', Fixed)
    with pytest.raises(ConfigError, match=r'train_dataloader\.dataset\.source\.path: Fixed has no such argument'):
        check_config(dict(train_dataloader=dict(dataset=dict(type='ImageDataset', source=dict(type='Fixed', path='a')))))
