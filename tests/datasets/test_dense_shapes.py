"""Annotations of the generated scenes agree with their masks, and the packages read the generated sets."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from mmadclr.datasets.scenes import MIN_PIXELS, Scene, coco_annotations, draw_scene, run_lengths, write_scenes
from mmadclr.datasets.shapes import CLASSES, write_once, write_shapes


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


def test_annotations_describe_the_instance_masks():
    scenes = [draw_scene(np.random.default_rng(seed)) for seed in range(6)]
    content = coco_annotations(scenes)
    assert [category['name'] for category in content['categories']] == [kind.name for kind in CLASSES]
    found = {number: [] for number in range(len(scenes))}
    for annotation in content['annotations']:
        scene = scenes[annotation['image_id']]
        mask = decode(annotation['segmentation']['counts'], annotation['segmentation']['size'])
        (instance,) = set(scene.instances[mask].tolist())
        assert (mask == (scene.instances == instance)).all()
        assert annotation['category_id'] == scene.labels[instance - 1] + 1
        left, top, width, height = annotation['bbox']
        assert mask.sum() == mask[top : top + height, left : left + width].sum() == annotation['area']
        for edge in (mask[top], mask[top + height - 1], mask[:, left], mask[:, left + width - 1]):
            assert edge.any()
        found[annotation['image_id']].append(instance)
    for number, scene in enumerate(scenes):
        sizes = np.bincount(scene.instances.ravel(), minlength=len(scene.labels) + 1)[1:]
        assert found[number] == [i for i, size in enumerate(sizes, start=1) if size >= MIN_PIXELS]


def test_hidden_objects_are_left_out():
    mask = np.zeros((8, 8), np.uint8)
    mask[:2, :5], mask[4:, 4:] = 1, 2
    annotations = coco_annotations([Scene(np.zeros((8, 8, 3)), mask, [3, 7])])['annotations']
    assert [(each['bbox'], each['category_id']) for each in annotations] == [([4, 4, 4, 4], 8)]


def test_scenes_are_written_once_and_repeat(tmp_path):
    write_scenes(tmp_path / 'a', num_train=3, num_val=2, size=48)
    before = {path: path.read_bytes() for path in (tmp_path / 'a').rglob('*.*')}
    write_scenes(tmp_path / 'a', num_train=3, num_val=2, size=48)
    write_scenes(tmp_path / 'b', num_train=2, num_val=2, size=48)
    assert before == {path: path.read_bytes() for path in (tmp_path / 'a').rglob('*.*')}
    for name in ('train/000001.png', 'val/000001.png', 'annotations/instances_val.json'):
        assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()
    assert (tmp_path / 'a/train/000001.png').read_bytes() != (tmp_path / 'a/val/000001.png').read_bytes()
    with pytest.raises(FileExistsError, match='images generated with other settings'):
        write_scenes(tmp_path / 'a', num_train=4, num_val=2, size=48)


@pytest.mark.dense
def test_packages_read_the_sets(tmp_path):
    import mmadclr.ops  # noqa: F401
    from mmadclr.datasets import scenes_detection, shapes_segmentation

    scenes = write_scenes(tmp_path / 'scenes', num_train=3, num_val=2)
    detection = scenes_detection(str(scenes), 'val', num_train=3, num_val=2, pipeline=[])
    annotations = json.loads((scenes / 'annotations/instances_val.json').read_text())['annotations']
    expected = [each['category_id'] - 1 for each in annotations if each['image_id'] == 1]
    assert [each['bbox_label'] for each in detection.get_data_info(1)['instances']] == expected
    shapes = write_shapes(tmp_path / 'shapes', num_train=10, num_val=10)
    item = shapes_segmentation(str(shapes), 'train', num_train=10, num_val=10, pipeline=[]).get_data_info(0)
    semantic = np.asarray(Image.open(item['seg_map_path']))
    assert set(np.unique(semantic)) == {0, 1 + [kind.name for kind in CLASSES].index(item['img_path'].split('/')[-2])}


def test_runs_that_start_together_get_the_same_set(tmp_path):
    """Each writes it in full before the other has; none is left in part."""
    both = threading.Barrier(2)

    def write(folder):
        both.wait(30)
        (folder / 'a.txt').write_text('a')
        both.wait(30)

    settings = dict(num_train=1, num_val=0)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: write_once(tmp_path / 'data/set', settings, write), range(2)))
    assert found == [tmp_path / 'data/set'] * 2
    assert sorted(path.name for path in (tmp_path / 'data').rglob('*')) == ['a.txt', 'set', 'settings.json']


def test_an_interrupted_call_leaves_nothing_and_other_sets_are_not_replaced(tmp_path):
    def write(folder):
        (folder / 'a.txt').write_text('a')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_once(tmp_path / 'set', dict(num_train=1, num_val=0), write)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / 'set').mkdir()
    write_once(tmp_path / 'set', dict(num_train=1, num_val=0), lambda folder: None)
    with pytest.raises(FileExistsError, match='generated with other settings'):
        write_once(tmp_path / 'set', dict(num_train=2, num_val=0), lambda folder: None)
