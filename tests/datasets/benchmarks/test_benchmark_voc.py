"""VOC: the same masks and boxes as torchvision's data sets, and which images are used for training."""

import logging
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from benchmark_miniatures import VOC_OBJECTS, make
from PIL import Image
from torchvision.datasets import VOCDetection, VOCSegmentation

from mmadclr.datasets.benchmarks import LayoutError, open_benchmark, voc
from mmadclr.evaluation.dense.discovery import box_ious, voc_boxes

DEVKIT = 'VOCdevkit/VOC2012'
SETS = f'{DEVKIT}/ImageSets/Segmentation'


def names(items):
    return [item.name for item in items]


@pytest.mark.parametrize(('name', 'split', 'ours'), [('voc', 'val', 'val'), ('voc_train', 'train', 'train')])
def test_masks_equal_those_of_torchvision(name, split, ours, tmp_path):
    benchmark = open_benchmark(name, str(make(name, tmp_path)))
    theirs = VOCSegmentation(str(tmp_path), year='2012', image_set=split)
    items = getattr(benchmark, ours)
    assert [item.image for item in items] == theirs.images
    for item, (_, mask) in zip(items, theirs, strict=True):
        assert np.array_equal(benchmark.read_labels(item), np.array(mask))


def test_training_uses_the_augmented_list_and_masks(tmp_path):
    benchmark = open_benchmark('voc', str(make('voc', tmp_path)))
    listed = (tmp_path / SETS / 'trainaug.txt').read_text().split()
    assert (benchmark.name, names(benchmark.train)) == ('voc', listed)
    for item in benchmark.train:
        assert Path(item.mask).parent.name == 'SegmentationClassAug'
        assert np.array_equal(benchmark.read_labels(item), np.array(Image.open(item.mask)))
    assert {Path(item.mask).parent.name for item in benchmark.val} == {'SegmentationClass'}


def test_both_layouts_hold_the_same(tmp_path):
    devkit, sets = (open_benchmark('voc', str(make('voc', tmp_path / layout, layout))) for layout in ('devkit', 'sets'))
    for ours, theirs in ((devkit.train, sets.train), (devkit.val, sets.val)):
        assert names(ours) == names(theirs)
        for item, other in zip(ours, theirs, strict=True):
            assert np.array_equal(devkit.read_labels(item), sets.read_labels(other))


def test_the_list_of_mmsegmentation_adds_to_the_original_training_images(tmp_path):
    benchmark = open_benchmark('voc', str(make('voc', tmp_path, 'aug')))
    original, added = ((tmp_path / SETS / f'{name}.txt').read_text().split() for name in ('train', 'aug'))
    assert names(benchmark.train) == original + added
    folders = [Path(item.mask).parent.name for item in benchmark.train]
    assert folders == ['SegmentationClass'] * len(original) + ['SegmentationClassAug'] * len(added)


def test_without_augmented_masks_the_result_is_called_so(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(voc, 'print_log', lambda text, logger, level: said.append((text, level)))
    benchmark = open_benchmark('voc', str(make('voc', tmp_path, 'plain')))
    assert benchmark.name == 'voc_train'
    assert names(benchmark.train) == (tmp_path / SETS / 'train.txt').read_text().split()
    assert said == [
        (f'voc: {tmp_path / DEVKIT} has no augmented masks: trained on train.txt, reported as voc_train', logging.WARNING)
    ]


@pytest.mark.parametrize(
    ('gone', 'missing'), [('SegmentationClassAug', 'SegmentationClassAug'), ('trainaug.txt', 'trainaug.txt or')]
)
def test_half_of_the_augmented_part(gone, missing, tmp_path):
    make('voc', tmp_path)
    path = tmp_path / (f'{SETS}/{gone}' if gone.endswith('txt') else f'{DEVKIT}/{gone}')
    path.rename(tmp_path / 'elsewhere')
    with pytest.raises(LayoutError, match=f'has no .*{missing}') as caught:
        open_benchmark('voc', str(tmp_path))
    assert 'name voc_train' in str(caught.value)
    assert open_benchmark('voc_train', str(tmp_path)).name == 'voc_train'


# --- boxes -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('year', ['2007', '2012'])
def test_boxes_equal_those_of_torchvision_less_one(year, tmp_path):
    name = f'voc{year[2:]}'
    benchmark = open_benchmark(name, str(make(name, tmp_path)))
    theirs = VOCDetection(str(tmp_path), year=year, image_set='trainval')
    assert [each.image for each in benchmark.images] == theirs.images
    for ours, (_, note) in zip(benchmark.images, theirs, strict=True):
        objects = note['annotation']['object']
        sides = [[float(each['bndbox'][side]) for side in ('xmin', 'ymin', 'xmax', 'ymax')] for each in objects]
        assert torch.equal(ours.boxes, voc_boxes(torch.tensor(sides).long(), ours.difficult, ours.truncated))
        assert ours.truncated.tolist() == [each['truncated'] == '1' for each in objects]
        assert ours.difficult.tolist() == [each.get('difficult') == '1' for each in objects]


def test_a_box_of_the_whole_image_covers_it(tmp_path):
    benchmark = open_benchmark('voc07', str(make('voc07', tmp_path)))
    (first, *_), image = benchmark.images[0].boxes, VOC_OBJECTS['000005'][0]
    assert image[:4] == (1, 1, 32, 48)
    assert first.tolist() == [0, 0, 32, 48]
    assert box_ious([0, 0, 32, 48], first[None]).tolist() == [1.0]


def test_an_image_without_objects(tmp_path):
    benchmark = open_benchmark('voc07', str(make('voc07', tmp_path)))
    path = tmp_path / 'VOCdevkit/VOC2007/Annotations/000007.xml'
    path.write_text('<annotation><filename>000007.jpg</filename></annotation>')
    empty = benchmark.images[1]
    assert (empty.name, empty.boxes.shape, empty.difficult.shape) == ('000007', (0, 4), (0,))


def broken(edit):
    def change(text):
        root = ElementTree.fromstring(text)
        edit(root.find('object'))
        return ElementTree.tostring(root, encoding='unicode')

    return change


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda text: text[: len(text) // 2], 'cannot be read'),
        (lambda text: '', 'cannot be read'),
        (broken(lambda each: each.remove(each.find('bndbox'))), r'bndbox \[None, None, None, None\] must be four numbers'),
        (broken(lambda each: setattr(each.find('bndbox/xmin'), 'text', 'left')), "bndbox .*'left'.* must be four numbers"),
        (broken(lambda each: setattr(each.find('bndbox/ymax'), 'text', 'nan')), 'must be four numbers'),
        (broken(lambda each: setattr(each.find('bndbox/xmax'), 'text', '3')), r'bndbox \[5, 7, 3, 64\] must be xmin, ymin'),
        (broken(lambda each: setattr(each.find('difficult'), 'text', 'no')), "difficult 'no' must be 0 or 1"),
        (broken(lambda each: setattr(each.find('truncated'), 'text', '2')), "truncated '2' must be 0 or 1"),
    ],
)
def test_broken_annotations_are_named(change, words, tmp_path):
    benchmark = open_benchmark('voc07', str(make('voc07', tmp_path)))
    path = tmp_path / 'VOCdevkit/VOC2007/Annotations/000007.xml'
    path.write_text(change(path.read_text()))
    assert len(benchmark.images[0].boxes)
    with pytest.raises(ValueError, match=f'annotation {path}.*{words}'):
        benchmark.images[1]


@pytest.mark.parametrize(('folder', 'what'), [('JPEGImages', 'image'), ('Annotations', 'annotation')])
def test_listed_images_without_files(folder, what, tmp_path):
    make('voc12', tmp_path)
    for path in sorted((tmp_path / f'{DEVKIT}/{folder}').iterdir())[1:]:
        path.unlink()
    with pytest.raises(
        FileNotFoundError, match=rf'trainval.txt: 3 of 4 names have no {what} in .*: 2008_000007, 2008_000009, 2008_000012'
    ):
        open_benchmark('voc12', str(tmp_path))


@pytest.mark.parametrize(('name', 'other'), [('voc07', 'voc12'), ('voc12', 'voc07')])
def test_the_folder_of_another_year(name, other, tmp_path):
    make(other, tmp_path)
    with pytest.raises(ValueError, match=rf'{name}: .*trainval.txt is not of 20{name[3:]}: it lists (2008_)?000005, '):
        open_benchmark(name, str(tmp_path / f'VOCdevkit/VOC20{other[3:]}'))
