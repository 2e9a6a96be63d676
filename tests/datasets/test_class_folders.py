"""ClassFolders: which images and labels, against listings by hand; and what is wrong with folders and lists."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmadclr.datasets import ClassFolders
from mmadclr.datasets.checks import DatasetError, check_dataset
from mmadclr.datasets.subsets import few_shot, held_out

CLASSES = ('n01', 'n02', 'wild cat')


@pytest.fixture
def root(tmp_path) -> Path:
    """train/ with 10 images of each class, val/ with 2; names as of ImageNet, and one with a blank."""
    for split, count in (('train', 10), ('val', 2)):
        for name in CLASSES:
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new('RGB', (8, 8), (number, 0, 0)).save(folder / f'{name}_{number}.png')
    (tmp_path / 'train' / 'n01' / 'n01_0.png').rename(tmp_path / 'train' / 'n01' / 'a photo 1.png')
    return tmp_path


def contents(dataset: ClassFolders) -> list[tuple[str, int]]:
    items = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [(str(Path(item['img_path']).relative_to(dataset.folder)), item['gt_label']) for item in items]


def build(root: Path, split: str = 'train', **kwargs) -> ClassFolders:
    return ClassFolders(str(root), split=split, **kwargs)


def test_all_images_in_order_with_labels(root):
    dataset = build(root)
    listed = [(str(p.relative_to(root / 'train')), CLASSES.index(p.parent.name)) for p in (root / 'train').rglob('*.png')]
    assert contents(dataset) == sorted(listed)
    assert dataset.metainfo['classes'] == CLASSES
    assert contents(build(root, indices=4)) == sorted(listed)[:4]
    assert contents(ClassFolders(str(root / 'train'))) == sorted(listed)


def test_train_and_held_out_are_a_partition(root):
    everything = contents(build(root))
    parts = {part: contents(build(root, part=part, held_out_fraction=0.3)) for part in ('train', 'held_out')}
    mask = held_out(np.array([label for _, label in everything]), 0.3)
    assert parts['held_out'] == [item for item, out in zip(everything, mask, strict=True) if out]
    assert parts['train'] == [item for item, out in zip(everything, mask, strict=True) if not out]
    assert Counter(label for _, label in parts['held_out']) == {0: 3, 1: 3, 2: 3}
    assert contents(build(root, part='held_out', held_out_fraction=0.3, held_out_seed=1)) != parts['held_out']


def test_shots_come_from_the_part(root):
    train = contents(build(root, part='train', held_out_fraction=0.3))
    shots = contents(build(root, part='train', held_out_fraction=0.3, shots=2))
    assert shots == [train[i] for i in few_shot(np.array([label for _, label in train]), 2)]


@pytest.mark.parametrize(
    'lines',
    [
        ['n02/n02_3.png', 'n01/a photo 1.png', 'wild cat/wild cat_1.png'],
        ['n02_3.png', '', 'n01/a photo 1.png', 'wild cat_1.png '],
        ['n02/n02_3.png 1', 'n01/a photo 1.png 0', 'wild cat_1.png 2'],
    ],
)
def test_lists_name_images_by_path_by_name_and_with_label(root, lines):
    (root / 'few.txt').write_text('\n'.join(lines) + '\n')
    expected = [('n01/a photo 1.png', 0), ('n02/n02_3.png', 1), ('wild cat/wild cat_1.png', 2)]
    assert contents(build(root, list_file='few.txt')) == expected
    assert contents(build(root, list_file=str(root / 'few.txt'))) == expected


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        (
            ['n01/n01_1.png', 'n02/gone.png', 'n09_1.png'],
            '2 of 3 lines do not match an image in .*train: n02/gone.png, n09_1.png',
        ),
        (['n01_1.png', 'n01/n01_1.png', 'n02_1.png'], 'lists images more than once: n01/n01_1.png'),
        (['n01_1.png 1'], "'n01_1.png 1' has label 1, but its class folder has label 0"),
        (['n01_1.png', 'n02_1.png'], 'few.txt lists no image of 1 classes in .*train: wild cat'),
        ([], 'lists no image of 3 classes'),
    ],
)
def test_lists_that_do_not_fit_are_errors(root, lines, message):
    (root / 'few.txt').write_text('\n'.join(lines))
    with pytest.raises(ValueError, match=message):
        build(root, list_file='few.txt')


def test_impossible_settings_are_errors(root):
    with pytest.raises(FileNotFoundError, match='list of images .*gone.txt does not exist'):
        build(root, list_file='gone.txt')
    with pytest.raises(FileNotFoundError, match='test does not exist'):
        build(root, split='test')
    with pytest.raises(ValueError, match="part='half'.*choose 'all', 'train', 'held_out'"):
        build(root, part='half')
    for settings in (dict(part='train'), dict(held_out_fraction=0.1)):
        with pytest.raises(ValueError, match='set held_out_fraction for'):
            build(root, **settings)
    with pytest.raises(ValueError, match='shots=11: class n01 has only 10 images'):
        build(root, shots=11)


def test_empty_class_folder_is_an_error(root):
    (root / 'val' / 'n00').mkdir()
    with pytest.raises(ValueError, match='val: no image in the class folder n00'):
        build(root, split='val')
    with pytest.raises(DatasetError, match='no image in the class folder n00'):
        check_dataset(dict(type='mmadclr.ClassFolders', data_root=str(root), split='val', pipeline=[dict(type='Unknown')]))


def test_check_opens_the_first_images(root):
    cfg = dict(type='mmadclr.ClassFolders', data_root=str(root), split='train')
    (root / 'train' / 'n02' / 'n02_9.png').write_text('no picture')
    assert check_dataset(cfg, num_items=16).endswith('train): the first 16 items OK')
    with pytest.raises(DatasetError, match=r'1 problem:\n.*n02_9.png'):
        check_dataset(cfg)
    with pytest.raises(DatasetError, match='data_root .*nowhere does not exist'):
        check_dataset({**cfg, 'data_root': str(root / 'nowhere')})
