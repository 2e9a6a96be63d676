"""Folders of users: their forms, classes named and found, and splits."""

import logging
import shutil

import numpy as np
import pytest
from benchmark_miniatures import make
from PIL import Image

from mmadclr.datasets.benchmarks import LayoutError, folder, open_benchmark

NAMES = ('background', 'red thing', 'tree', 'sky')


def opened(tmp_path, form=None):
    return open_benchmark('folder', str(make('folder', tmp_path, form) if form else tmp_path))


def labels_by_name(benchmark):
    return [
        {item.name: benchmark.read_labels(item).tolist() for item in split} for split in (benchmark.train, benchmark.val)
    ]


@pytest.mark.parametrize('form', ['mmseg', 'outside', 'lists'])
def test_all_forms_with_a_split_hold_the_same(form, tmp_path):
    expected = labels_by_name(opened(tmp_path / 'inside', 'inside'))
    assert labels_by_name(opened(tmp_path / form, form)) == expected
    assert [len(split) for split in expected] == [6, 4]
    assert 'c%20d' in expected[0]
    assert 'deep/x.y' in expected[0]


@pytest.mark.parametrize(('ours', 'theirs'), [('masks', 'annotations'), ('masks', 'labels'), ('images', 'img_dir')])
def test_other_names_of_folders(ours, theirs, tmp_path):
    expected = labels_by_name(opened(tmp_path, 'inside'))
    (tmp_path / ours).rename(tmp_path / theirs)
    for split, name in (('train', 'training'), ('val', 'validation')):
        (tmp_path / theirs / split).rename(tmp_path / theirs / name)
    assert labels_by_name(opened(tmp_path)) == expected


def test_named_and_found_classes(tmp_path):
    benchmark = opened(tmp_path, 'inside')
    assert (benchmark.classes, benchmark.background) == (NAMES, 0)
    expected = labels_by_name(benchmark)
    (tmp_path / 'classes.txt').unlink()
    found = opened(tmp_path)
    assert (found.classes, found.background) == (('class 0', 'class 1', 'class 2', 'class 3'), None)
    assert labels_by_name(found) == expected


@pytest.mark.parametrize(('first', 'background'), [('Background', 0), ('bg', 0), ('sea', None)])
def test_background_is_what_is_called_so(first, background, tmp_path):
    make('folder', tmp_path)
    (tmp_path / 'classes.txt').write_text(f'{first}\nb\nc\nd\n')
    assert opened(tmp_path).background == background


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('one\n', 'names 1 classes: there must be 2 to 255, since 255 is ignored'),
        ('\n'.join(f'class {number}' for number in range(256)), 'names 256 classes'),
        ('a\nb\na\n', 'names a twice'),
    ],
)
def test_lists_of_classes_that_cannot_be(text, words, tmp_path):
    make('folder', tmp_path)
    (tmp_path / 'classes.txt').write_text(text)
    with pytest.raises(ValueError, match=f'classes.txt {words}'):
        opened(tmp_path)


def test_a_label_beyond_the_named_classes(tmp_path):
    make('folder', tmp_path)
    (tmp_path / 'classes.txt').write_text('a\nb\nc\n')
    benchmark = opened(tmp_path)
    with pytest.raises(ValueError, match='have the label 3, neither a class nor void: there are 3 classes, 0 to 2'):
        labels_by_name(benchmark)


def test_a_mask_of_0_and_255_leaves_nothing_to_learn(tmp_path):
    make('folder', tmp_path, 'mmseg')
    for path in (tmp_path / 'ann_dir').rglob('*.*'):
        if path.is_file():
            Image.fromarray(np.where(np.array(Image.open(path)) == 1, 255, 0).astype(np.uint8)).save(path)
    with pytest.raises(ValueError, match=r'masks contain 0 .* and 255 .*only class 0 is left.*rewrite the masks'):
        opened(tmp_path)


@pytest.mark.parametrize(('value', 'kind'), [(256, np.uint16), (-1, np.int32), (70000, np.int32)])
def test_labels_that_are_no_bytes(value, kind, tmp_path):
    path = make('folder', tmp_path, 'mmseg') / 'ann_dir/train/e.png'
    labels = np.array(Image.open(tmp_path / 'ann_dir/train/e.PNG')).astype(kind)
    labels[0, 0] = value
    Image.fromarray(labels).save(path.with_suffix('.tif'))
    (tmp_path / 'ann_dir/train/e.PNG').unlink()
    with pytest.raises(ValueError, match=f'e.tif has the labels .*{value}.*must be 0 to 255'):
        opened(tmp_path)
    (tmp_path / 'classes.txt').write_text('a\nb\nc\nd\n')
    with pytest.raises(ValueError, match=f'e.tif: 1 pixels have the label {value}'):
        labels_by_name(opened(tmp_path))


# --- splits ----------------------------------------------------------------------------------------------------------------


def test_without_lists_every_fifth_image_is_for_validation(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(folder, 'print_log', lambda text, logger, level: said.append((text, level)))
    benchmark = opened(tmp_path, 'flat')
    whole = sorted(item.name for split in (benchmark.train, benchmark.val) for item in split)
    assert [item.name for item in benchmark.val] == whole[4::5]
    assert len(whole) == 10
    ((text, level),) = said
    assert level == logging.WARNING
    assert 'every fifth image is for validation, 2 of 10' in text


@pytest.mark.parametrize('count', [1, 2, 4])
def test_few_images_without_lists(count, tmp_path):
    make('folder', tmp_path, 'flat')
    (tmp_path / 'classes.txt').write_text('\n'.join(NAMES))
    for kind in ('images', 'masks'):
        for path in sorted(path for path in (tmp_path / kind).rglob('*') if path.is_file())[count:]:
            path.unlink()
    if count == 1:
        with pytest.raises(FileNotFoundError, match='has one image: there must be at least 2'):
            opened(tmp_path)
    else:
        benchmark = opened(tmp_path)
        assert (len(benchmark.train), len(benchmark.val)) == (count - 1, 1)


def test_one_list_only(tmp_path):
    make('folder', tmp_path, 'lists')
    (tmp_path / 'val.txt').unlink()
    with pytest.raises(LayoutError, match='has train.txt, but no val.txt'):
        opened(tmp_path)


def test_listed_names_without_image(tmp_path):
    make('folder', tmp_path, 'lists')
    (tmp_path / 'val.txt').write_text('h\nnowhere\ndeep/nothing.png\n')
    with pytest.raises(FileNotFoundError, match='val.txt: 2 of 3 names have no image in .*images: nowhere, deep/nothing'):
        opened(tmp_path)


@pytest.mark.parametrize(
    ('form', 'gone', 'missing'),
    [
        ('inside', ['masks'], ['masks or ann_dir or annotations or labels']),
        ('inside', ['images/val'], ['images/val']),
        ('inside', ['images/val', 'masks/train'], ['images/val', 'masks/train']),
        ('outside', ['val'], ['val or validation']),
        ('outside', ['val/masks', 'train/images'], ['val/masks or val/ann_dir', 'train/images or train/img_dir']),
    ],
)
def test_missing_parts(form, gone, missing, tmp_path):
    make('folder', tmp_path, form)
    for part in gone:
        shutil.rmtree(tmp_path / part)
    with pytest.raises(LayoutError) as caught:
        opened(tmp_path)
    said = str(caught.value).partition('; expected ')[0]
    assert all(part in said for part in missing)


def test_masks_without_image(tmp_path):
    make('folder', tmp_path)
    (tmp_path / 'images/train/e.jpg').unlink(missing_ok=True)
    (tmp_path / 'images/train/a b.jpg').unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match=r'masks/train: \d of 6 names have no image in .*images/train: a b'):
        opened(tmp_path)


def test_two_images_of_the_same_name(tmp_path):
    path = make('folder', tmp_path) / 'images/train/f.png'
    shutil.copy(next((tmp_path / 'images/train').glob('f.*')), path.with_suffix('.bmp'))
    with pytest.raises(ValueError, match=r'train/f\.\w+ and .*train/f\.\w+ have the same name: remove one'):
        opened(tmp_path)


def test_a_folder_without_images(tmp_path):
    for part in ('images/train', 'images/val', 'masks/train', 'masks/val'):
        (tmp_path / part).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r'images/train has no images: searched for names ending in \.jpg'):
        opened(tmp_path)


def test_links_into_and_back_out_of_a_folder(tmp_path):
    expected = labels_by_name(opened(tmp_path / 'plain', 'inside'))
    make('folder', tmp_path / 'linked')
    for kind in ('images', 'masks'):
        deep = tmp_path / f'linked/{kind}/train/deep'
        deep.rename(tmp_path / f'elsewhere_{kind}')
        deep.symlink_to(tmp_path / f'elsewhere_{kind}')
        (tmp_path / f'linked/{kind}/train/back').symlink_to(tmp_path / 'linked')
    assert labels_by_name(opened(tmp_path / 'linked')) == expected
