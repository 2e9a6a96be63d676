"""The benchmark of the dense suite, small: both forms are the same, and every figure is there."""

import json
import sys

import common
import dense
import pytest
import torch

SMALL = ['--bank=9000', '--dim=16', '--queries=40', '--small=5000', '--points=900', '--clusters=9', '--rounds=1']


@pytest.fixture(autouse=True)
def out(monkeypatch, tmp_path):
    """Where the figures go, and the sizes of all programs of this file."""
    monkeypatch.setattr(common, 'OUT', tmp_path)
    monkeypatch.setattr(sys, 'argv', ['dense.py', '--device=cpu', *SMALL])
    return tmp_path


def test_all_figures_are_written(out):
    dense.main()
    rows = json.loads((out / 'dense.json').read_text())['rows']
    assert [row['unit'] for row in rows] == ['ms', 'MiB', 's', '%', 'MiB', 'ms', 'MiB']
    assert all(row['ours'] > 0 for row in rows)
    assert all((row['ratio'] is None) == (row['unit'] in 's%') for row in rows)
    share = rows[3]
    assert 0 < share['ours'] < 100
    assert float(share['note'].split()[0]) > 0


def test_forms_that_disagree_end_the_benchmark(monkeypatch):
    plain = dense.plain_lloyd
    monkeypatch.setattr(dense, 'plain_lloyd', lambda points, start, steps: plain(points, start, steps - 1))
    with pytest.raises(SystemExit, match='the two forms disagree: shares by .*, centers by'):
        dense.main()
    monkeypatch.setattr(dense, 'plain_lloyd', plain)
    monkeypatch.setattr(dense, 'searched', lambda *data: dense.propagate_shares(*data, dense.K + 1, dense.BETA))
    with pytest.raises(SystemExit, match='the two forms disagree'):
        dense.main()


def test_plain_memory_is_that_of_the_similarities():
    data = torch.randn(3000, 8), torch.rand(3000, 3), torch.randn(500, 8)
    mib = dense.peak(dense.plain_search, *data)
    assert 1 <= mib / (4 * 500 * 3000 / 2**20) < 1.5
