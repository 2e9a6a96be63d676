"""Measures by several processes are those of one, with equal numbers of calls of the model on each."""

import measured_on_ranks
import pytest
import torch
from programs import python_on_ranks


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    measured_on_ranks.write(folder)
    return folder


@pytest.mark.parametrize('world', [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_find_what_one_does(root, world):
    alone = measured_on_ranks.found(root)
    python_on_ranks(world, 'tests/evaluation/adaptation/measured_on_ranks.py', root)
    several = [torch.load(root / f'{world}.{rank}.pt', weights_only=False) for rank in range(world)]
    assert len(alone['outputs']['indices']) == 12  # of 13, one is unreadable
    for each in several:
        for name, expected in alone['outputs'].items():
            torch.testing.assert_close(
                torch.as_tensor(each['outputs'][name]), torch.as_tensor(expected), atol=1e-5, rtol=1e-4
            )
        assert each['values'] == pytest.approx(alone['values'], rel=1e-3)
        assert 'NaN or infinite' in each['refusal']
    assert len({each['calls'] for each in several}) == 1
