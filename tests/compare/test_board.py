"""A comparison of make-believe jobs: order, failures, tables."""

import json
from types import SimpleNamespace

import pytest

from mmadclr.compare import board
from mmadclr.compare.board import Comparison
from mmadclr.compare.jobs import Job

PARTS = ('pretraining', 'knn')


class Method(SimpleNamespace):
    def _replace(self, **changes):
        return Method(**{**vars(self), **changes})


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """Runs a comparison of methods a and b, seeds 0 and 1; ``failing``: a (row, seed, part) whose command fails."""

    def fake_plan(row, seed, settings, parts):
        def make(part, value, needs=None):
            folder = tmp_path / row.name / str(seed) / part
            script = f'echo oh dear; test "{(row.name, seed, part)}" != "$0" && echo x >> {tmp_path}/ran'
            command = ['sh', '-c', script, str(settings.failing)]
            return Job(folder, command, {'value': value}, lambda *_: value, needs=needs)

        is_random = row.name == 'random initialization'
        first = make('pretraining', {'pixels_knn': 20.0} if is_random else {'images_per_s': 100.0 + seed})
        return {'pretraining': first, 'knn': make('knn', {'knn': 10.0 * len(row.name) + seed}, first)}

    monkeypatch.setattr(board, 'plan', fake_plan)

    def run(failing=None):
        (tmp_path / 'ran').write_text('')
        settings = SimpleNamespace(out=tmp_path, failing=failing)
        methods = [Method(name='a', run=None), Method(name='bb', run='epoch_3.pth')]
        comparison = Comparison(methods, [0, 1], settings, PARTS, {'epochs': 3}, ['note'])
        failed = comparison.run()
        return failed, len((tmp_path / 'ran').read_text().splitlines()), json.loads((tmp_path / 'table.json').read_text())

    return run


def test_every_job_runs_once_and_fills_its_cell(compare, tmp_path):
    failed, ran, content = compare()
    assert (failed, ran) == ([], 3 * 2 * 2)
    assert list(content['rows']) == ['raw pixels', 'random initialization', 'a', 'bb']
    assert content['rows']['bb']['knn'] == {'mean': 20.5, 'std': 0.5**0.5, 'n': 2, 'values': {'0': 20.0, '1': 21.0}}
    assert content['rows']['raw pixels'] == {'knn': {'mean': 20.0, 'std': 0.0, 'n': 2, 'values': {'0': 20.0, '1': 20.0}}}
    assert 'images_per_s' in content['rows']['a']
    assert 'pixels_knn' not in content['rows']['random initialization']
    assert content['protocol'] == {'epochs': 3}
    assert content['notes'] == ['note', 'bb is a single finished run: its spread is only that of the measurements']
    assert '| a | 10.5 ± 0.7 (2) | 100 ± 1 (2) |' in (tmp_path / 'table.md').read_text()
    assert compare()[1:] == (0, content)  # all is there


def test_a_failure_stops_what_needs_it_and_nothing_else(compare, capsys):
    failed, ran, content = compare(failing=('a', 0, 'pretraining'))
    assert failed == ['a, seed 0, pretraining', 'a, seed 0, knn']
    assert ran == 3 * 2 * 2 - 2
    assert content['rows']['a']['knn'] == {'mean': 11.0, 'std': None, 'n': 1, 'values': {'1': 11.0}}
    printed = capsys.readouterr().out
    assert 'FAILED: a, seed 0, pretraining: exit status 1; the end of' in printed
    assert 'oh dear' in printed
    assert compare()[:2] == ([], 2)  # the two that are missing


def test_table_is_written_after_every_job(compare, tmp_path, monkeypatch):
    seen = []
    write = Comparison.write

    def spy(self):
        write(self)
        seen.append(sum(len(cells) for cells in json.loads((tmp_path / 'table.json').read_text())['rows'].values()))

    monkeypatch.setattr(Comparison, 'write', spy)
    compare()
    assert seen[:6] == [1, 2, 3, 4, 5, 6]  # a cell each of the first seed
