"""Text lists of images, class lists and tar shards as they come: read as they are meant, or refused with their name."""

from __future__ import annotations

import io
import os
import re
import tarfile
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import TEXTS, Refusal, damaged, outcome

from mmadclr.datasets.class_folders import ClassFolders
from mmadclr.datasets.readers import read_list
from mmadclr.datasets.sources import find_source
from mmadclr.names import is_hidden, printable, read_lines

NAMES = ['cat/cat_1.png', 'cat/a b.jpg', 'dog/dog_2.png', 'dog/#1.png', 'dog/caf\udce9.png', 'dog/.hidden.png']
LABELS = {name: int(name.startswith('dog')) for name in NAMES}
ENCODINGS = ('utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-32', 'latin-1', 'utf-7')
ENDS = st.text('0123456789²٣-.x', max_size=8)
ODD = ['', ' ', '# a comment', '#', '0', 'cat_1.png', 'cat_1.png 0', '/etc/passwd', '../x.png 1', 'cat/', '/', '\0']
LINE = st.one_of(
    st.builds('{}{}{}'.format, st.sampled_from(NAMES), st.sampled_from(['', ' ', '\t', ' \t', ',']), ENDS),
    st.sampled_from(NAMES),
    st.sampled_from([f'{name} {label}' for name, label in LABELS.items()]),
    st.sampled_from(ODD),
    st.text(max_size=20),
)


@st.composite
def texts(draw):
    """Contents of a text file: lines in some encoding and with line ends of any system, or damaged bytes of one."""
    lines, end = draw(st.lists(LINE, max_size=6)), draw(st.sampled_from(['\n', '\r\n', '\r', '\u2028', '\n\n']))
    encoding = draw(st.sampled_from(ENCODINGS))
    data = end.join(lines).encode(encoding, 'surrogateescape' if encoding == 'utf-8' else 'replace')
    return draw(st.just(data) | damaged({'list': data}).map(lambda file: file[1]))


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """A folder with the images of ``NAMES``."""
    root = tmp_path_factory.mktemp('lists')
    for name in NAMES:
        (root / 'data' / name).parent.mkdir(parents=True, exist_ok=True)
        (root / 'data' / name).write_bytes(b'')
    return root


@given(data=texts(), with_label=st.booleans())
def test_lists_of_images(root, data, with_label):
    path = root / 'list.txt'
    path.write_bytes(data)
    listing = outcome(lambda: read_list(path, root / 'data', with_label), 'list.txt')
    if isinstance(listing, Refusal):
        return
    lines = [line for _, line in read_lines(path) if not line.startswith('#')]
    paths = [os.fsdecode(path) for path in listing.paths]
    assert paths
    assert len(paths) == len(lines)
    if with_label:
        columns = [re.fullmatch(r'(.*?)[ \t]+([0-9]+)', line, re.DOTALL) for line in lines]
        assert list(zip(paths, listing.labels, strict=True)) == [(column[1], int(column[2])) for column in columns]
        assert max(listing.labels) < len(listing.classes)
    else:
        assert listing.labels is None
        assert all(line.startswith(name) for name, line in zip(paths, lines, strict=True))
    source = outcome(lambda: find_source(str(root / 'data'), str(path), with_label, None), 'list.txt')
    names = [source.name(number) for number in range(len(source))]
    assert [os.fsdecode(source.key(number)) for number in range(len(source))] == paths
    assert all(name.encode() and '\n' not in name for name in names)


@given(data=texts(), shots=st.none() | st.integers(1, 3))
def test_lists_of_class_folders(root, data, shots):
    path = root / 'classes.txt'
    path.write_bytes(data)
    names = ('classes.txt', str(root), 'shots=')
    settings = dict(data_root=str(root), split='data', list_file='classes.txt', shots=shots)
    items = outcome(lambda: list(ClassFolders(**settings)), *names)
    if isinstance(items, Refusal):
        return
    found = [os.path.relpath(item['img_path'], root / 'data') for item in items]
    assert set(found) <= set(NAMES)
    assert len(set(found)) == len(found)
    assert [item['gt_label'] for item in items] == [LABELS[name] for name in found]
    assert {LABELS[name] for name in found} == {0, 1}


@given(st.text() | st.binary(max_size=30).map(os.fsdecode))
def test_names_are_shown_in_one_line_of_unicode(name):
    shown = printable(name)
    assert shown == printable(shown)
    assert not {unicodedata.category(character) for character in shown} & {'Cc', 'Cs', 'Zl', 'Zp'}
    assert len(shown.encode().splitlines()) <= 1
    is_hidden(name)


def shard(members):
    """A tar file of (name, contents)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


MEMBERS = [('1.png', b'abc'), ('1.cls', b'0'), ('a/2.jpg', b'de' * 300), ('a/2.json', b'{"label": 1}'), ('._3.png', b'x')]
SHARDS = {
    'labeled': shard(MEMBERS),
    'long names': shard([('x' * 150 + '.png', b'0'), ('x' * 150 + '.cls', b'0')]),
    'no label': shard(MEMBERS[:1]),
}


@st.composite
def odd_members(draw):
    names = st.sampled_from(['1.png', '1.cls', '1.json', '2.jpg', '2.cls', 'a/1.PNG', '.png', '1', '']) | TEXTS
    bodies = st.sampled_from(
        [b'', b'0', b'-1', b'9' * 5000, b'1.5', b'[' * 5000, b'{"label": true}', b'{"label": 1e9}', b'null']
    )
    members = draw(st.lists(st.tuples(names, bodies | st.binary(max_size=9)), max_size=5))
    return shard([(name.replace('\0', '0').replace('\ud800', '\udce9'), body) for name, body in members])


@given(data=damaged(SHARDS).map(lambda file: file[1]) | odd_members(), with_label=st.booleans())
def test_shards(tmp_path_factory, data, with_label):
    root = tmp_path_factory.getbasetemp() / 'shards'
    root.mkdir(exist_ok=True)
    (root / '0.tar').write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(root / 'cache'))
        source = outcome(lambda: find_source(str(root), None, with_label, '*.tar'), '0.tar')
    if isinstance(source, Refusal):
        return
    assert len(source)
    for number in range(len(source)):
        assert '0.tar: ' in source.name(number)
        assert source.read(number) in data
    if with_label:
        assert source.labels.dtype == np.int64
        assert source.labels.min() >= 0
        assert len(source.classes) == source.labels.max() + 1
