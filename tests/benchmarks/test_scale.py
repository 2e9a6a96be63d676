"""The parts of the benchmark of sizes run, small, and the program knows all of them."""

import importlib

import pytest
import scale

ROWS = {'listing': 8, 'shards': 5, 'orders': 12, 'crops': 4, 'loop': 2}


@pytest.mark.slow
@pytest.mark.parametrize('part', ROWS)
def test_every_part_runs_small(part):
    rows = importlib.import_module(f'scale_parts.{part}').rows(0.002)
    assert len(rows) >= ROWS[part]
    assert all(row.ours is not None and row.ours >= 0 for row in rows)


def test_every_part_is_one_of_the_program():
    names = {path.stem for path in (scale.common.OUT.parent / 'scale_parts').glob('*.py')} - {'__init__', 'measured'}
    assert names == set(scale.PARTS)
