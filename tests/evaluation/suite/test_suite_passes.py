"""Passes: kept in files, continued after an interruption, started anew for other inputs."""

from contextlib import suppress

import numpy as np
import pytest
import torch

from mmadclr.evaluation.suite import passes
from mmadclr.evaluation.suite.passes import Arrays, Loading, compute_rows, own_random, shared_out, units_of

LAYOUT = {'squares': Arrays((2,), 'float32')}


class Work:
    """Squares of indices; counts batches, and fails at one of them."""

    def __init__(self, fail_at=None):
        self.batches, self.fail_at = [], fail_at

    def __call__(self, items):
        if self.fail_at in items:
            raise KeyboardInterrupt
        self.batches.append(items)
        return {'squares': np.array([[item**2, item] for item in items], np.float32)}


def rows(work, folder=None, identity=None, count=10):
    return compute_rows(lambda index: index, work, count, LAYOUT, Loading(3, 0), 'test', folder, identity)['squares']


def expected(count=10):
    return np.array([[i**2, i] for i in range(count)], np.float32)


def test_rows_in_memory_and_in_files(tmp_path):
    assert np.array_equal(rows(Work()), expected())
    found = rows(Work(), tmp_path / 'a')
    assert isinstance(found, np.memmap)
    assert np.array_equal(found, expected())
    assert np.array_equal(np.load(tmp_path / 'a/squares.npy'), expected())


def test_an_interrupted_pass_continues(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        rows(Work(fail_at=7), tmp_path / 'a', {'x': 1})
    work = Work()
    assert np.array_equal(rows(work, tmp_path / 'a', {'x': 1}), expected())
    assert work.batches == [[6, 7, 8], [9]]
    again = Work()
    rows(again, tmp_path / 'a', {'x': 1})
    assert again.batches == []


@pytest.mark.parametrize('change', [dict(identity={'x': 2}), dict(count=8)])
def test_other_inputs_start_anew(tmp_path, change):
    rows(Work(), tmp_path / 'a', {'x': 1})
    work, settings = Work(), dict(identity={'x': 1}) | change
    assert np.array_equal(rows(work, tmp_path / 'a', **settings), expected(settings.get('count', 10)))
    assert sum(map(len, work.batches)) == settings.get('count', 10)


@pytest.mark.parametrize('fail_at', [None, 7])
def test_finished_outputs_serve_passes_that_need_fewer(tmp_path, fail_at):
    def compute(items):
        if fail_at in items:
            raise KeyboardInterrupt
        return Work()(items) | {'halves': np.array(items, np.float32)[:, None] / 2}

    layout, loading = LAYOUT | {'halves': Arrays((1,), 'float32')}, Loading(3, 0)
    with suppress(KeyboardInterrupt):
        compute_rows(lambda index: index, compute, 10, layout, loading, 'test', tmp_path / 'a', {})
    work = Work()
    assert np.array_equal(rows(work, tmp_path / 'a', {}), expected())
    assert sum(map(len, work.batches)) == (0 if fail_at is None else 10)


def test_too_little_space_is_an_error(tmp_path, monkeypatch):
    usage = passes.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(passes.shutil, 'disk_usage', lambda path: usage._replace(free=10))
    with pytest.raises(ValueError, match=r'features need 0\.0 GiB, but only 0\.0 GiB are free; choose another --out'):
        rows(Work(), tmp_path / 'a')
    assert not (tmp_path / 'a').exists()


def test_errors_of_workers_keep_their_message():
    def read(index):
        if index == 4:
            raise ValueError('image 4 is bad')
        return index

    for workers in (0, 2):
        with pytest.raises(ValueError, match='^image 4 is bad$'):
            shared_out(6, read, lambda item: item, 'test', workers)
    assert shared_out(3, lambda index: index, lambda item: item + 1, 'test') == [1, 2, 3]


def test_batches_do_not_depend_on_processes(monkeypatch):
    units = units_of(17, 4)
    monkeypatch.setattr(passes.dist, 'get_world_size', lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(passes.dist, 'get_rank', lambda rank=rank: rank)
        parts += passes.my_part(units)
    assert parts == units


def test_random_numbers_of_an_image_depend_only_on_its_place():
    def draw(*numbers):
        with own_random(*numbers):
            return torch.rand(3).tolist()

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = draw(0, 1, 2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert draw(0, 1, 2) == first
    assert len({tuple(draw(*numbers)) for numbers in ((0, 1, 2), (0, 2, 1), (1, 1, 2), (0, 12), (0, 1, 2, 1))}) == 5
