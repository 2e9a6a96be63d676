import pickle

import numpy as np
import pytest

from mmadclr.datasets import byte_strings
from mmadclr.datasets.byte_strings import ByteStrings

NAMES = [b'a.jpg', b'', b'caf\xe9/b.png', b'x' * 5000, b'null\0inside', b'a.jpg', b'']


def test_what_goes_in_comes_out():
    strings = ByteStrings.of(iter(NAMES))
    assert len(strings) == len(NAMES)
    assert list(strings) == NAMES
    assert [strings[i] for i in range(-len(NAMES), len(NAMES))] == NAMES * 2
    assert list(pickle.loads(pickle.dumps(strings))) == NAMES
    assert list(ByteStrings.of([])) == []


@pytest.mark.parametrize('chunk', [1, 2, 100])
def test_selected_in_any_order(monkeypatch, chunk):
    monkeypatch.setattr(byte_strings, 'CHUNK', chunk)
    indices = np.array([3, 0, 0, 6, 2, 4])
    assert list(ByteStrings.of(NAMES).take(indices)) == [NAMES[i] for i in indices]
    assert list(ByteStrings.of(NAMES).take(np.empty(0, dtype=np.int64))) == []


@pytest.mark.parametrize('index', [len(NAMES), -len(NAMES) - 1])
def test_no_string_beyond_the_ends(index):
    with pytest.raises(IndexError, match=f'index {index} is out of range for {len(NAMES)} strings'):
        ByteStrings.of(NAMES)[index]


def test_arrays_of_something_else_are_refused():
    whole = ByteStrings.of(NAMES)
    for data, starts in ((whole.data[1:], whole.starts), (whole.data, whole.starts[:-2]), (whole.data, whole.starts[:0])):
        with pytest.raises(ValueError, match='do not match'):
            ByteStrings(data, starts)


def test_a_long_string_widens_no_other():
    strings = ByteStrings.of([b'x' * 100_000] + [b'y'] * 1000)
    assert strings.data.nbytes == 101_000
