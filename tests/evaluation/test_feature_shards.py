"""Evaluations by one, two and three processes: the same numbers, each with its part of the features, nothing pickled."""

import pytest
import shard_runs
import torch
import torch.nn.functional as F
from programs import python_on_ranks


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('shards')
    shard_runs.write(folder)
    return folder


@pytest.fixture(scope='module')
def alone(root):
    """What one process finds."""
    return shard_runs.found(root)


@pytest.fixture(scope='module', params=[2, pytest.param(3, marks=pytest.mark.slow)])
def case(request, root, alone):
    """What one process finds, and what each of several does."""
    world = request.param
    python_on_ranks(world, 'tests/evaluation/shard_runs.py', root)
    return alone, [torch.load(root / f'{world}.{rank}.pt', weights_only=False) for rank in range(world)]


@pytest.mark.parametrize('name', ['probe', 'probe_with_workers'])
def test_the_dense_probe_finds_what_one_process_does(case, name):
    alone, several = case
    for each in several:
        for found, expected in zip(each[name]['bank'], alone['probe']['bank'], strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        for metric, total in alone['probe']['confusions'].items():
            found = each[name]['confusions'][metric]
            assert found.sum() == total.sum()  # every pixel once, those of the unreadable image left out
            assert (found - total).abs().sum() <= 4  # pixels on the border of two classes
        assert each[name]['metrics'] == pytest.approx(alone['probe']['metrics'], abs=0.1)


def test_masks_of_one_share_that_are_wrong_end_all(case):
    alone, several = case
    message = 'labels [7] are not among the 3 classes'
    assert message in alone['refused']
    assert all(message in each['refused'] for each in several)
    assert sum('failed: LabelMapError: mask' in each['refused'] for each in several) == len(several) - 1


def test_features_come_in_the_order_of_the_data_set(case):
    alone, several = case
    for each in several:
        for name in ('whole', 'shuffled'):
            torch.testing.assert_close(each[name], alone['whole'], rtol=0, atol=1e-6)
        for found, expected in zip(each['extracted'], alone['extracted'], strict=True):
            torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=1e-3, atol=1e-6)


def test_each_process_holds_a_part(case):
    alone, several = case
    for name in ('held', 'held_by_command'):
        parts = [each[name] for each in several]
        assert sum(parts) == alone[name] == 22
        assert max(parts) <= -(-23 // len(several))


@pytest.mark.parametrize('name', ['knn_in_run', 'knn', 'knn_of_few', 'knn_of_one', 'knn_of_many', 'tied_knn'])
def test_accuracies_are_those_of_one_process(case, name):
    alone, several = case
    assert all(each[name] == alone[name] for each in several)
    if isinstance(alone[name], list):
        assert alone[name][0] == alone[name][1]  # spread out or not


def test_of_equal_neighbors_the_first_of_the_bank_count(case):
    bank, queries = shard_runs.tied_sets()
    cosines = F.normalize(queries.rows[:], dim=1) @ F.normalize(bank.rows[:], dim=1).T
    similarity, nearest = cosines.sort(dim=1, descending=True, stable=True)
    alone, several = case
    for each in (alone, *several):
        rows, found, places = each['tied']
        assert torch.equal(found, similarity[rows, :15])
        assert torch.equal(places, nearest[rows, :15])
    assert torch.cat([each['tied'][0] for each in several]).sort().values.tolist() == list(range(17))


def test_no_features_are_pickled(case):
    _, several = case
    assert max(each['largest_message'] for each in several) < 2_000  # bytes; the features of one image take 1,536
