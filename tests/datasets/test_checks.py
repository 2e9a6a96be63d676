"""Mistakes in annotated data are found and named with their file and item; good data passes."""

import json

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image

from mmadclr.datasets.checks import DatasetError, check_dataset
from mmadclr.datasets.scenes import write_scenes

pytestmark = pytest.mark.dense


@pytest.fixture(autouse=True)
def _stand_in():
    import mmadclr.ops  # noqa: F401


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp('data') / 'scenes', num_train=10, num_val=10, size=32)


@pytest.fixture
def coco(drawn, tmp_path):
    """Returns a function that writes a changed annotation file and checks the set it describes."""
    content = json.loads((drawn / 'annotations/instances_train.json').read_text())
    (tmp_path / 'train').symlink_to(drawn / 'train')
    classes = [category['name'] for category in content['categories']]

    def check(change=None, num_items=None, allow_other_categories=False, **kwargs):
        if change:
            change(content)
        (tmp_path / 'train.json').write_text(json.dumps(content))
        cfg = dict(type='mmdet.CocoDataset', data_root=str(tmp_path), ann_file='train.json', data_prefix=dict(img='train/'))
        with DefaultScope.overwrite_default_scope('mmdet'):
            return check_dataset(cfg | dict(metainfo=dict(classes=classes)) | kwargs, num_items, allow_other_categories)

    return check


def test_good_annotations_pass(coco):
    assert coco().endswith('all items OK')
    assert coco(num_items=3).endswith('the first 3 items OK')


def first(content, **changes):
    content['annotations'][0].update(changes)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda c: first(c, image_id=99), r'train\.json: annotation 1 has image_id 99, which images does not list'),
        (lambda c: first(c, category_id=77), r'train\.json: 1 annotations have category_id 77, which categories does not'),
        (
            lambda c: first(c, bbox=[40, 2, 5, 5]),
            r'annotation 1 has a box \[40, 2, 5, 5\] outside its image of 32x32 pixels',
        ),
        (
            lambda c: first(c, segmentation=dict(size=[64, 32], counts=[2048])),
            r'annotation 1 has a mask of 32x64 pixels, but its image 000000\.png has 32x32',
        ),
        (
            lambda c: first(c, segmentation=[[1, 1, 60, 1, 60, 9]]),
            r'annotation 1 has a polygon outside its image of 32x32 pixels \(000000\.png\)',
        ),
        (
            lambda c: c['images'][2].update(width=50),
            r'image 2: .*train/000002\.png has 32x32 pixels, but its annotation has 50x32',
        ),
        (lambda c: c['images'][1].update(file_name='gone.png'), r'image 1: .*gone\.png cannot be read'),
        (lambda c: c['images'][1].update(id=0), r'train\.json: 2 images have the id 0'),
        (lambda c: c['annotations'].clear(), r'train\.json: empty or without annotations'),
        (lambda c: c.pop('categories'), r'train\.json: empty or without categories'),
        (lambda c: c['annotations'][1].pop('bbox'), r'train\.json: record 1 of annotations has no bbox'),
        (lambda c: c['images'][2].pop('width'), r'train\.json: record 2 of images has no width'),
        (lambda c: c['categories'][0].update(name='blob'), r'no category is named striped_disc; .*blob'),
    ],
)
def test_mistakes_in_coco_files_are_named(coco, change, message):
    with pytest.raises(DatasetError, match=message):
        coco(change)


def test_images_beyond_the_first_are_not_opened(coco):
    assert coco(lambda c: c['images'][5].update(file_name='gone.png'), num_items=5).endswith('the first 5 items OK')
    with pytest.raises(DatasetError, match='gone.png'):
        coco(num_items=6)


def test_test_sets_need_no_annotations(coco):
    assert coco(lambda c: c.pop('annotations'), test_mode=True).endswith('all items OK')


def test_sets_that_are_read_in_another_way_are_left_alone(coco):
    assert coco(lambda c: c.clear(), type='mmdet.LVISV1Dataset')


def test_categories_outside_the_class_list_need_consent(coco):
    fewer = dict(metainfo=dict(classes=('striped_disc',)))
    with pytest.raises(DatasetError, match=r'annotations of category 2 \(checked_square\) would be ignored'):
        coco(**fewer)
    coco(allow_other_categories=True, **fewer)


def test_missing_places_are_named(coco, tmp_path):
    with pytest.raises(DatasetError, match=r'data_root /nowhere does not exist; move the data there or set data_root'):
        coco(data_root='/nowhere')
    with pytest.raises(DatasetError, match=r'other\.json.*No such file'):
        coco(ann_file='other.json')
    (tmp_path / 'broken.json').write_text('{"images": [')
    with pytest.raises(DatasetError, match=r'broken\.json: Expecting value'):
        coco(ann_file='broken.json')


def test_long_lists_of_problems_are_cut(coco):
    with pytest.raises(DatasetError, match=r'(?s)has \d+ problems?:.*and \d+ more'):
        coco(lambda c: [annotation.update(image_id=99) for annotation in c['annotations']])


def test_wrapped_sets_are_looked_into(coco, drawn):
    bad = dict(type='mmdet.CocoDataset', data_root='/nowhere', ann_file='train.json', data_prefix=dict(img='train/'))
    with pytest.raises(DatasetError, match='/nowhere'):
        check_dataset(dict(type='RepeatDataset', times=2, dataset=bad))
    with pytest.raises(DatasetError, match='/nowhere'):
        check_dataset(dict(type='ConcatDataset', datasets=[bad]))


@pytest.fixture
def segmentation(tmp_path):
    """Returns a function that writes images and masks of given sizes and labels, and checks them."""

    def check(image=(20, 30), mask=None, num_classes=3, **kwargs):
        rng = np.random.default_rng(0)
        for folder in ('images', 'masks'):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*image, 3), dtype=np.uint8)).save(tmp_path / 'images' / 'a.jpg')
        if mask is not None:
            Image.fromarray(np.asarray(mask, dtype=np.uint8)).save(tmp_path / 'masks' / 'a.png')
        cfg = dict(
            type='mmseg.BaseSegDataset',
            data_root=str(tmp_path),
            data_prefix=dict(img_path='images', seg_map_path='masks'),
            metainfo=dict(classes=tuple('abcdef'[:num_classes])),
        )
        with DefaultScope.overwrite_default_scope('mmseg'):
            return check_dataset(cfg | kwargs)

    return check


def test_good_masks_pass(segmentation):
    labels = np.zeros((20, 30))
    labels[:4], labels[4:8] = 2, 255
    assert segmentation(mask=labels).endswith('all items OK')
    labels[:2] = 3
    assert segmentation(mask=labels, reduce_zero_label=True).endswith('all items OK')


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(mask=np.full((20, 30), 3)), r'masks/a\.png has labels \[3\], which are neither classes nor'),
        (dict(mask=np.full((20, 30), 4), reduce_zero_label=True), r'masks/a\.png has labels \[4\]'),
        (dict(mask=np.full((20, 30), 254), ignore_index=255), r'has labels \[254\]'),
        (dict(mask=np.zeros((20, 31))), r'mask .*a\.png: .*a\.jpg has 30x20 pixels, but its annotation has 31x20'),
        (dict(mask=np.zeros((20, 30, 3))), r'a\.png has 3 channels .*; label maps have one'),
        (dict(), r'mask .*a\.png of a\.jpg cannot be read'),
        (dict(data_root='/nowhere'), r'data_root /nowhere does not exist'),
        (dict(data_prefix=dict(img_path='pictures', seg_map_path='masks')), r'folder .*pictures does not exist'),
        (dict(img_suffix='.tif'), r'images: no images match \*\.tif'),
    ],
)
def test_mistakes_in_masks_are_named(segmentation, kwargs, message):
    with pytest.raises(DatasetError, match=message):
        segmentation(**kwargs)


@pytest.mark.parametrize('scope', ['mmadclr', 'mmdet'])
def test_unlabeled_images_are_decoded_too(scope):
    prefix = '' if scope == 'mmadclr' else 'mmadclr.'
    transform = dict(type=f'{prefix}ResizeSquare', size=8)
    cfg = dict(type=f'{prefix}ImageDataset', data_root='tests/data/bad_images', transform=transform)
    message = r'(?s)has 2 problems.*text\.png.*truncated\.jpg'
    with DefaultScope.overwrite_default_scope(scope), pytest.raises(DatasetError, match=message):
        check_dataset(cfg)
