"""The generated set's annotations agree with its instance masks, and the packages read them."""

import json

import numpy as np
import pytest
from PIL import Image

from mmadclr.datasets.shapes import CLASSES, MIN_PIXELS, coco_annotations, run_lengths, write_shapes


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp('data') / 'shapes', num_train=12, num_val=10)


def decode(counts, size):
    values = np.repeat(np.arange(len(counts)) % 2, counts)
    return values.reshape(size, order='F').astype(bool)


@pytest.mark.parametrize('first', [False, True])
def test_run_lengths_are_undone_by_their_definition(first):
    mask = np.random.default_rng(0).random((7, 5)) > 0.5
    mask[0, 0] = first
    counts = run_lengths(mask)
    assert sum(counts) == mask.size
    assert (decode(counts, mask.shape) == mask).all()
    assert run_lengths(np.zeros((2, 3), bool)) == [6]
    assert run_lengths(np.ones((2, 3), bool)) == [0, 6]


@pytest.mark.dense
def test_run_lengths_are_those_of_pycocotools():
    from pycocotools import mask as coco_mask

    mask = np.random.default_rng(1).random((9, 6)) > 0.4
    encoded = coco_mask.frPyObjects(dict(size=[9, 6], counts=run_lengths(mask)), 9, 6)
    assert (coco_mask.decode(encoded) == mask).all()


def test_annotations_describe_the_instance_masks(root):
    content = json.loads((root / 'annotations/instances_train.json').read_text())
    assert [category['name'] for category in content['categories']] == [kind.name for kind in CLASSES]
    described = {image['id']: np.zeros((64, 64), int) for image in content['images']}
    files = {image['id']: image['file_name'] for image in content['images']}
    for annotation in content['annotations']:
        mask = decode(annotation['segmentation']['counts'], annotation['segmentation']['size'])
        left, top, width, height = annotation['bbox']
        assert mask.sum() == mask[top : top + height, left : left + width].sum() == annotation['area'] >= MIN_PIXELS
        for edge in (mask[top], mask[top + height - 1], mask[:, left], mask[:, left + width - 1]):
            assert edge.any()
        described[annotation['image_id']] += mask
        assert files[annotation['image_id']].startswith(CLASSES[annotation['category_id'] - 1].name)
    for number, mask in described.items():
        instances = np.asarray(Image.open(root / 'instances/train' / files[number]))
        sizes = np.bincount(instances.ravel())
        visible = (instances > 0) & (sizes[instances] >= MIN_PIXELS)
        assert (mask == visible).all()


def test_hidden_objects_are_left_out():
    mask = np.zeros((8, 8), np.uint8)
    mask[:2, :5], mask[4:, 4:] = 1, 2
    assert [each['bbox'] for each in coco_annotations([mask])['annotations']] == [[4, 4, 4, 4]]


@pytest.mark.dense
def test_packages_read_the_set(root):
    import mmadclr.ops  # noqa: F401
    from mmadclr.datasets import shapes_detection, shapes_segmentation

    settings = dict(data_root=str(root), split='train', num_train=12, num_val=10, pipeline=[])
    detection = shapes_detection(**settings)
    assert len(detection) == 12
    labels = {instance['bbox_label'] for instance in detection.get_data_info(3)['instances']}
    assert labels == {3}
    item = shapes_segmentation(**settings).get_data_info(0)
    semantic = np.asarray(Image.open(item['seg_map_path']))
    assert set(np.unique(semantic)) == {0, 1 + [kind.name for kind in CLASSES].index(item['img_path'].split('/')[-2])}
