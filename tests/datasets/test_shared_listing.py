"""Arrays that several processes share are those that were written for them, or an error."""

import multiprocessing
import os
import pickle
import time

import numpy as np
import pytest

from mmadclr.datasets import shared_listing
from mmadclr.datasets.byte_strings import ByteStrings
from mmadclr.datasets.readers import Listing
from mmadclr.datasets.shared_listing import Exchange, digest, exchanging, is_visible, load, map_array, save, shared_source
from mmadclr.datasets.sources import FileSource, spread

NAMES = [b'a/1.png', b'b/\xe9\n.png', b'b/2.png']


@pytest.fixture
def source():
    return FileSource('root', Listing(ByteStrings.of(NAMES), np.array([0, 1, 1]), ('a', 'b')))


def test_what_is_saved_is_loaded_and_pickled_without_its_arrays(source, tmp_path):
    found = load(save(source, str(tmp_path), None))
    again = pickle.loads(pickle.dumps(found))
    for each in (found, again):
        assert [each.key(number) for number in range(3)] == NAMES
        assert (each.labels.tolist(), each.classes, each.root) == ([0, 1, 1], ('a', 'b'), source.root)
        assert not each.labels.flags.writeable
    assert again.labels.path == found.labels.path
    big = save(FileSource('root', Listing(ByteStrings.of(NAMES * 10_000))), str(tmp_path), None)
    assert len(big.content) < 1000
    assert len(pickle.dumps(load(big))) < 1000


def test_parts_of_a_mapped_array_are_pickled_whole(source, tmp_path):
    found = load(save(source, str(tmp_path), None))
    found.select(np.array([2, 0]))
    again = pickle.loads(pickle.dumps(found))
    assert [again.key(number) for number in range(2)] == [NAMES[2], NAMES[0]]
    assert again.labels.tolist() == [1, 0]
    assert pickle.loads(pickle.dumps(load(save(source, str(tmp_path), None)).labels[1:])).tolist() == [1, 1]


def test_files_that_hold_something_else_or_are_gone_are_errors(source, tmp_path):
    shared = save(source, str(tmp_path), None)
    path = os.path.join(shared.folder, '2.npy')
    labels = map_array(path)
    np.save(path + '.new.npy', np.array([1, 1, 1]))
    os.replace(path + '.new.npy', path)
    with pytest.raises(ValueError, match=r'2.npy differs from what the process that lists the images wrote'):
        load(shared)
    os.unlink(path)
    assert not is_visible(shared)
    with pytest.raises(FileNotFoundError, match=r'2.npy is missing: do not remove the listing of a run'):
        pickle.loads(pickle.dumps(labels))


def test_a_source_is_taken_only_for_the_same_key_and_view(source, tmp_path):
    with exchanging(Exchange((str(tmp_path),))) as first:
        shared_source(('a',), lambda: source, lambda _: 'view')
    made = []
    for key, view, expected in ((('a',), 'view', []), (('b',), 'view', ['made']), (('a',), 'other', ['made'])):
        made.clear()
        with exchanging(Exchange(known=first.written)):
            shared_source(key, lambda: made.append('made') or source, lambda _, view=view: view)
        assert made == expected
    assert shared_source(('a',), lambda: source, lambda _: 'view') is source  # nothing goes on: as it is, nothing written
    assert len(os.listdir(tmp_path)) == 1


def save_and_wait(folder, to):
    to.send(save([], folder, None).folder)
    time.sleep(60)


def test_what_a_killed_process_left_is_removed_what_a_living_one_uses_is_not(source, tmp_path):
    context = multiprocessing.get_context('fork')
    heard, told = context.Pipe(duplex=False)
    other = context.Process(target=save_and_wait, args=(str(tmp_path), told))
    other.start()
    place = heard.recv()
    mine = save(source, str(tmp_path), None)
    assert os.path.isdir(place)
    other.kill()
    other.join()
    save(source, str(tmp_path), None)
    assert not os.path.exists(place)
    assert is_visible(mine)


def test_a_folder_that_takes_nothing_is_said_and_the_next_is_taken(source, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(shared_listing, 'print_log', lambda message, *_: said.append(message))
    (tmp_path / 'file').write_text('')
    exchange = Exchange((str(tmp_path / 'file'), str(tmp_path / 'good')))
    exchange.find(('a',), lambda: source, lambda _: None)
    assert exchange.written['a',].folder.startswith(str(tmp_path / 'good'))
    (message,) = said
    assert message.startswith(f'cannot write the list of images to {tmp_path}/file (')


def test_digests_are_of_type_shape_and_contents(monkeypatch):
    monkeypatch.setattr(shared_listing, 'HASHED', 5)
    arrays = [np.arange(6), np.arange(6).reshape(2, 3), np.arange(6, dtype=np.int32), np.arange(1, 7), np.arange(6)[::-1]]
    assert len(set(map(digest, arrays))) == 5
    assert digest(np.arange(12)[::2]) == digest(np.arange(0, 12, 2))


def test_spread_numbers_differ_between_processes():
    parts = [spread(10_000, 100, part, 4) for part in range(4)]
    assert len({number for part in parts for number in part}) == 400
    assert all(part == sorted(part) and part[0] >= 0 and 9800 < part[-1] < 10_000 for part in parts)
    assert spread(3, 100, 1, 4) == [0, 1, 2]
