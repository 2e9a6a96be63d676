"""Names of any bytes, and lists of them from any system."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path

import pytest
from PIL import Image
from shards import image_bytes, write_tar

from mmadclr.datasets import ClassFolders, ImageDataset, readers, tar_index
from mmadclr.datasets.packing import pack_shards
from mmadclr.datasets.readers import read_list
from mmadclr.names import is_hidden, printable, read_lines

CENTER = dict(type='ResizeCenterCrop', resize=16, size=16)
LATIN = os.fsdecode(b'caf\xe9.png')
ODD = [
    LATIN,
    'two\nlines.png',
    '-rf.png',
    'it\'s "quoted".png',
    'back\\slash.png',
    'tab\t.png',
    '\u2028.png',
    ' b.png',
    '猫 ü.png',
]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new('RGB', (20, 20), (9, 99, 199)).save(buffer, 'png')
    return buffer.getvalue()


@pytest.fixture
def odd_root(tmp_path) -> Path:
    """Two class folders, one of them of a name that is no Unicode, with a picture under each odd name."""
    root = tmp_path / 'odd'
    for folder in (os.fsdecode(b'\xe4'), 'b'):
        (root / folder).mkdir(parents=True)
        for name in ODD:
            (root / folder / name).write_bytes(png())
    return root


@pytest.mark.parametrize(
    ('name', 'shown'),
    [
        (LATIN, 'caf\\xe9.png'),
        ('two\nlines.png', 'two\\nlines.png'),
        ('\x1b[2J.png', '\\x1b[2J.png'),
        ('a\u2028b', 'a\\u2028b'),
        ('猫 ü\u3000\xa0.png', '猫 ü\u3000\xa0.png'),
        ('it\'s "a" \\ b.png', 'it\'s "a" \\ b.png'),
    ],
)
def test_names_are_shown_as_one_line_of_unicode(name, shown):
    assert printable(name) == printable(Path(name)) == shown
    assert len(printable(name).encode().splitlines()) == len(printable(name).splitlines()) == 1


def test_hidden_names():
    assert all(map(is_hidden, ('.a', 'a/.b/c', '__MACOSX/a', 'x/Thumbs.db', 'a/@eaDir/b')))
    assert not any(map(is_hidden, ('a', './a', '../a', 'a..b/c.', 'macosx/a', '/a//b')))


def test_images_of_odd_names_are_read_and_named_in_valid_unicode(odd_root):
    dataset = ImageDataset(str(odd_root), CENTER, with_label=True)
    assert len(dataset) == 2 * len(ODD)
    assert dataset.metainfo['classes'] == ('b', '\\xe4')
    for index in range(len(dataset)):
        assert dataset[index]['unreadable'] == []
        dataset.source.name(index).encode()
    assert {dataset.source.key(index) for index in range(len(dataset))} == {
        os.fsencode(f'{folder}/{name}') for folder in ('b', os.fsdecode(b'\xe4')) for name in ODD
    }
    again = pickle.loads(pickle.dumps(dataset))
    assert again.path(0) == dataset.path(0)
    dataset.path(0).write_bytes(b'')
    (message,) = dataset[0]['unreadable']
    assert len(message.splitlines()) == 1
    json.dumps(message, ensure_ascii=False).encode()


def test_odd_names_go_into_shards_and_come_out(odd_root, tmp_path):
    pack_shards(odd_root, tmp_path / 'out', images_per_shard=7, with_label=True)
    assert (tmp_path / 'out' / 'classes.txt').read_text() == 'b\n\\xe4\n'
    dataset = ImageDataset(str(tmp_path / 'out'), CENTER, shards='*.tar', with_label=True)
    assert sorted(dataset.labels.tolist()) == [0] * len(ODD) + [1] * len(ODD)
    assert dataset.metainfo['classes'] == ('b', '\\xe4')
    members = {os.fsdecode(b'caf\xe9/1.jpg'): image_bytes(0), 'l\nf.jpg': image_bytes(1)}
    write_tar(tmp_path / 'names' / '0.tar', members)
    for _ in range(2):  # scanned, and from the cache
        source = ImageDataset(str(tmp_path / 'names'), CENTER, shards='*.tar').source
        assert [source.name(i).partition(': ')[2] for i in range(2)] == ['caf\\xe9/1.jpg', 'l\\nf.jpg']
        assert source.key(0) == b'0.tar: caf\xe9/1.jpg'


def test_hidden_members_of_shards_are_left_out_and_counted(tmp_path, monkeypatch):
    messages = []
    monkeypatch.setattr(tar_index, 'print_log', lambda message, *_: messages.append(message))
    members = {'./a/1.jpg': image_bytes(0), 'a/._1.jpg': b'x', '__MACOSX/1.jpg': b'x', '.ipynb_checkpoints/2.jpg': b'x'}
    write_tar(tmp_path / '0.tar', members)
    (tmp_path / '._0.tar').write_bytes(b'Mac OS X')
    for _ in range(2):
        assert len(ImageDataset(str(tmp_path), CENTER, shards='*.tar')) == 1
        assert f'{tmp_path}: skipped 3 hidden members in shards (a/._1.jpg)' in messages
        assert f"{tmp_path}: skipped 1 hidden files that match shards='*.tar'" in messages
        messages.clear()


# --- lists -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def said(monkeypatch):
    messages = []
    monkeypatch.setattr(readers, 'print_log', lambda message, *_: messages.append(message))
    return messages


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / 'root').mkdir()
    for name in ('é.png', LATIN, '.hidden.png', '#1.png', 'a b.png'):
        (tmp_path / 'root' / name).write_bytes(png())
    return tmp_path / 'root'


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-32'])
@pytest.mark.parametrize('end', ['\n', '\r\n', '\r', ' \t\n\n'])
def test_lists_in_every_encoding_and_with_every_line_end(root, tmp_path, encoding, end):
    path = tmp_path / 'list.txt'
    path.write_bytes(end.join(['é.png 1', 'a b.png\t0', '']).encode(encoding))
    listing = read_list(path, root, with_label=True)
    assert [os.fsdecode(path) for path in listing.paths] == ['é.png', 'a b.png']
    assert listing.labels.tolist() == [1, 0]
    assert ImageDataset(str(root), CENTER, ann_file=path, with_label=True)[0]['unreadable'] == []


def test_marks_of_big_endian_texts(tmp_path):
    (tmp_path / 'l').write_bytes(b'\xfe\xff' + 'ä.png\n'.encode('utf-16-be'))
    assert read_lines(tmp_path / 'l') == [(1, 'ä.png')]


def test_a_list_names_files_that_are_no_unicode_and_hidden_ones(root, tmp_path):
    path = tmp_path / 'list.txt'
    path.write_bytes(b'caf\xe9.png\n.hidden.png\n')
    dataset = ImageDataset(str(root), CENTER, ann_file=path)
    assert [dataset[i]['unreadable'] for i in range(2)] == [[], []]
    assert [dataset.path(i).name for i in range(2)] == [LATIN, '.hidden.png']


@pytest.mark.parametrize('data', ['a.png\n'.encode('utf-16-le'), b'\xff\xfea', b'\x89PNG\r\n\x1a\n\0\0'])
def test_files_that_are_no_text_are_an_error(root, tmp_path, data):
    (tmp_path / 'list.txt').write_bytes(data)
    with pytest.raises(ValueError, match=r'list\.txt (is not UTF-8 text|starts like utf-16 text but cannot be decoded)'):
        read_list(tmp_path / 'list.txt', root)


def write(tmp_path, *lines) -> Path:
    (tmp_path / 'list.txt').write_text('\n'.join(lines))
    return tmp_path / 'list.txt'


def test_comments_are_lines_that_name_no_file(root, tmp_path, said):
    path = write(tmp_path, '# my images', '#1.png', '#', 'a b.png')
    assert list(read_list(path, root).paths) == [b'#1.png', b'a b.png']
    assert said == [f'{path}: skipped 2 comments']


def test_labels_that_are_not_wanted_are_left_out(root, tmp_path, said):
    path = write(tmp_path, 'a b.png 3', 'é.png', 'folder 7/x.png', 'no-image 5')
    assert list(read_list(path, root).paths) == [b'a b.png', 'é.png'.encode(), b'folder 7/x.png', b'no-image 5']
    assert said == [f'{path}: ignoring the labels of 1 lines (with_label=False)']


def test_images_named_twice_count_twice_and_are_said(root, tmp_path, said):
    path = write(tmp_path, 'a b.png 1', 'a b.png 1', 'é.png 0')
    assert read_list(path, root, with_label=True).labels.tolist() == [1, 1, 0]
    assert said == [f'{path}: 1 images are listed, and used, more than once (a b.png)']


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        (['a.png 1', 'a.png 2'], r'list\.txt: a\.png has labels 1 and 2: remove one'),
        (['a.png 1', 'b.png 12345678901234567890'], r'line 2: invalid label 12345678901234567890: classes are numbered'),
        (['a.png ²'], r'line 1: expected "path label"'),
        (['a.png -1'], r'line 1: expected "path label"'),
        (['7'], r'line 1: expected "path label"'),
        (['', '# nothing'], r'list of images .*list\.txt is empty'),
    ],
)
def test_lists_that_cannot_be_meant_are_errors(root, tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        read_list(write(tmp_path, *lines), root, with_label=True)


def test_lists_of_class_folders_from_windows_with_a_hidden_image(tmp_path):
    for name in ('a', 'b'):
        (tmp_path / 'train' / name).mkdir(parents=True)
        for image in ('é.png', '.x.png', LATIN):
            (tmp_path / 'train' / name / image).write_bytes(png())
    (tmp_path / 'few.txt').write_bytes(b'\xef\xbb\xbf' + 'a/é.png\r\nb/.x.png 1\r\n'.encode() + b'b/caf\xe9.png\r\n')
    dataset = ClassFolders(str(tmp_path), 'train', list_file='few.txt')
    items = [dataset.get_data_info(i) for i in range(len(dataset))]
    found = {(os.path.relpath(item['img_path'], tmp_path / 'train'), item['gt_label']) for item in items}
    assert found == {('a/é.png', 0), ('b/.x.png', 1), (f'b/{LATIN}', 1)}
    assert len(ClassFolders(str(tmp_path), 'train')) == 4  # without the list, hidden ones are left out


def test_names_of_classes_may_be_of_any_language_and_system(tmp_path):
    write_tar(tmp_path / '0.tar', {'1.jpg': image_bytes(0), '1.cls': b'2'})
    (tmp_path / 'classes.txt').write_bytes('\ufeffcat\r\n\r\n犬\r\n'.encode())
    dataset = ImageDataset(str(tmp_path), CENTER, shards='*.tar', with_label=True)
    assert dataset.metainfo['classes'] == ('cat', '', '犬')
