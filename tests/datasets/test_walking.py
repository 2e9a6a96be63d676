"""Folders as they lie on disks: links of every kind, hidden leftovers, pipes, folders that cannot be read."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmadclr.datasets import ClassFolders, walking
from mmadclr.datasets.readers import read_class_folders, read_folder
from mmadclr.datasets.walking import subfolders, walk
from mmadclr.names import is_hidden


def decoded(names) -> list[str]:
    return [os.fsdecode(name) for name in names]


@pytest.fixture
def root(tmp_path) -> Path:
    """Class folders a, b and c with four images each."""
    for name in 'abc':
        (tmp_path / 'data' / name).mkdir(parents=True)
        for number in range(4):
            Image.new('RGB', (9, 9)).save(tmp_path / 'data' / name / f'{number}.png')
    return tmp_path / 'data'


@pytest.fixture
def said(monkeypatch):
    messages = []
    monkeypatch.setattr(walking, 'print_log', lambda message, *_: messages.append(message))
    return messages


def link(path: Path, target) -> None:
    path.symlink_to(target, target_is_directory=True)


@pytest.mark.parametrize('target', ['..', '.', '../a', 'absolute', 'through another link'])
def test_a_link_to_a_folder_it_lies_in_is_said_and_not_followed(root, said, target):
    if target == 'through another link':
        link(root.parent / 'door', root)
        target = '../../door'
    link(root / 'a' / 'all', root if target == 'absolute' else target)
    listing = read_class_folders(root)
    assert Counter(listing.labels) == {0: 4, 1: 4, 2: 4}
    assert all(
        path.split(os.sep)[0] == listing.classes[label]
        for path, label in zip(decoded(listing.paths), listing.labels, strict=True)
    )
    (message,) = said
    assert message.startswith(f'{root}: skipped 1 links to their own parent folders (a/all -> ')


def test_links_to_the_root_in_several_classes_end(root, said):
    for name in 'abc':
        link(root / name / 'all', '..')
    assert len(read_class_folders(root).paths) == 12
    assert 'skipped 3 links' in said[0]


def test_links_to_each_other_end_where_they_would_begin_again(root, said):
    """In a, the images of b are a's, by the user's own link; what lies behind it is a once more."""
    link(root / 'a' / 'other', '../b')
    link(root / 'b' / 'other', '../a')
    found = walk(root)
    assert Counter(os.path.dirname(path) for path in decoded(found.images)) == dict.fromkeys(
        ('a', 'a/other', 'b', 'b/other', 'c'), 4
    )
    assert found.loops == ['a/other/other', 'b/other/other']
    assert found.repeated == ['a/other', 'b/other']


def test_two_links_to_one_folder_outside_are_both_followed(root, said):
    (root.parent / 'more').mkdir()
    Image.new('RGB', (9, 9)).save(root.parent / 'more' / 'x.png')
    for name in 'ab':
        link(root / name / 'more', '../../more')
    paths = decoded(read_folder(root).paths)
    assert len(paths) == 14
    assert {'a/more/x.png', 'b/more/x.png'} <= set(paths)
    assert len(said) == 1
    assert '1 links lead to folders found by another path' in said[0]
    assert 'b/more -> ../../more' in said[0]


def test_links_that_make_paths_without_number_are_an_error(tmp_path, monkeypatch):
    """2 ** 40 paths to the last folder, and no link leads back."""
    for depth in range(41):
        (tmp_path / f'd{depth}').mkdir()
        for side in ('x', 'y') if depth < 40 else ():
            link(tmp_path / f'd{depth}' / side, f'../d{depth + 1}')
    with pytest.raises(
        ValueError, match='more than 1000 paths lead to the same folder through links, one of them .*: remove links'
    ):
        read_folder(tmp_path)


def test_a_class_folder_that_is_a_link_back_is_no_class(root):
    link(root / 'everything', '.')
    assert subfolders(root) == ['a', 'b', 'c']
    assert ClassFolders(str(root)).metainfo['classes'] == ('a', 'b', 'c')


def test_links_to_files_are_images_and_broken_ones_are_said(root, said):
    (root / 'a' / 'linked.png').symlink_to('../b/0.png')
    (root / 'a' / 'gone.png').symlink_to('nowhere.png')
    (root / 'a' / 'itself.png').symlink_to('itself.png')
    link(root / 'd', '/nowhere/at/all')
    listing = read_class_folders(root)
    assert {'a/linked.png', 'a/gone.png', 'a/itself.png'} <= set(
        decoded(listing.paths)
    )  # the last two will count as unreadable
    assert len(listing.paths) == 15
    (message,) = said
    assert '3 links are broken; those with image names count as unreadable' in message
    assert 'd -> /nowhere/at/all' in message


HIDDEN = ['.ipynb_checkpoints/0-checkpoint.png', '._0.png', '__MACOSX/0.png', '@eaDir/0.png/thumb.jpg', '.hidden.jpg']


def test_hidden_folders_and_files_are_left_out_and_counted(root, said):
    before = read_class_folders(root)
    for name in ('a', '.'):
        for path in HIDDEN:
            (root / name / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (9, 9)).save(root / name / path)
    for name in ('.DS_Store', 'Thumbs.db', 'desktop.ini'):
        (root / 'a' / name).write_bytes(b'x')
    after = read_class_folders(root)
    assert list(after.paths) == list(before.paths)
    assert np.array_equal(after.labels, before.labels)
    assert after.classes == before.classes
    (message,) = said
    assert message.startswith(f'{root}: skipped 13 hidden files and folders (')
    assert ClassFolders(str(root)).metainfo['classes'] == ('a', 'b', 'c')


def test_a_root_below_a_hidden_folder_is_no_matter(root):
    hidden = root.rename(root.parent / '.cache')
    assert len(read_folder(hidden).paths) == 12


def test_an_order_that_does_not_depend_on_the_file_system(root, monkeypatch):
    """That of ``os.walk`` with sorted names, in which data sets were read before: files, then folders."""
    (root / 'a' / 'deep').mkdir()
    (root / 'a' / 'deep' / '0.PNG').write_bytes(b'')
    expected = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        expected += [os.path.relpath(os.path.join(folder, name), root) for name in sorted(names)]
    assert decoded(read_folder(root).paths) == expected


def test_pipes_are_no_images(root, said):
    os.mkfifo(root / 'a' / 'pipe.png')
    assert len(read_folder(root).paths) == 12
    assert 'skipped 1 files without an image extension (1 x pipe or device)' in said[0]


@pytest.mark.parametrize('call', ['open', 'scandir'])
def test_a_folder_that_cannot_be_read_is_an_error(root, monkeypatch, call):
    """Whether it cannot be opened, or what is in it cannot be read."""
    original = getattr(os, call)

    def refuse(path, *args):
        place = os.readlink(f'/proc/self/fd/{path}') if isinstance(path, int) else os.fsdecode(path)
        if place.endswith('/b'):
            raise PermissionError(13, 'Permission denied', path)
        return original(path, *args)

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(
        ValueError, match=r'folder .*data/b cannot be read \(Permission denied\): make it readable, or move it'
    ):
        read_folder(root)


def plainly(root: Path) -> tuple[list[str], list[str], Counter, list[str]]:
    """Images, hidden ones, others and broken links, entry by entry: a slow reference for trees without links to folders."""
    images, hidden, others, broken, left = [], [], Counter(), [], [('', root)]
    while left:
        folder, path = left.pop()
        enter = []
        for name in sorted(os.listdir(path)):
            here, below = os.path.join(path, name), os.path.join(folder, name)
            extension = os.path.splitext(name)[1].lower()
            if is_hidden(name):
                hidden.append(below)
            elif os.path.islink(here) and not os.path.exists(here):
                broken.append(below)
                images += [below] if extension in walking.EXTENSIONS else []
            elif os.path.isdir(here):
                enter.append((below, here))
            elif not os.path.isfile(here):
                others['pipe or device'] += 1
            elif extension in walking.EXTENSIONS:
                images.append(below)
            else:
                others[extension or name] += 1
        left += reversed(enter)
    return images, hidden, others, broken


STEMS = ['a', 'B', 'é', '\udce9', '￮', '😀', 'x.y', '.hid', '__MACOSX', 'new\nline', 'name ', '-', '..two']
ENDINGS = ['.jpg', '.JPG', '.Jpeg', '.png', '.txt', '', '.', '.TXT', '.jpg.txt', '.pn', 'jpg']


def fill_at_random(folder: Path, draw: random.Random, depth: int = 0) -> None:
    folder.mkdir()
    endings = ['.png'] if draw.random() < 0.4 else ENDINGS  # many folders hold one kind of files
    for _ in range(draw.randrange(12)):
        path = folder / (draw.choice(STEMS) + str(draw.randrange(30)) + draw.choice(endings))
        if path.is_symlink() or path.exists():
            continue
        kind = draw.choice(['file'] * 8 + ['folder', 'folder', 'broken', 'link', 'pipe'])
        if kind == 'folder' and depth < 3:
            fill_at_random(path, draw, depth + 1)
        elif kind in ('broken', 'link'):
            path.symlink_to('nowhere' if kind == 'broken' else '/dev/null' if draw.random() < 0.3 else __file__)
        elif kind == 'pipe':
            os.mkfifo(path)
        else:
            path.write_bytes(b'')


@pytest.mark.parametrize('seed', range(30))
def test_random_trees_as_found_entry_by_entry(tmp_path, seed):
    fill_at_random(tmp_path / 'tree', random.Random(seed))
    found = walk(tmp_path / 'tree')
    images, hidden, others, broken = plainly(tmp_path / 'tree')
    assert decoded(found.images) == images
    assert (found.hidden, found.broken) == (hidden, broken)
    assert list(found.others.items()) == list(others.items())
    assert list(found.counts.elements()) == [path.split('/')[0] if '/' in path else '' for path in images]


@pytest.mark.parametrize('names', [['\udcff.png', '￮.png', '😀.png'], ['é.png', 'z.png'], ['a.jpg', 'a.JPG', 'B.jpg']])
def test_names_are_in_the_order_of_strings(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(b'')
    assert decoded(walk(tmp_path).images) == sorted(names)
