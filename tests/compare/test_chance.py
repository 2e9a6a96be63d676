"""Differences over seeds against scipy, and of seeds and images against a simulation."""

import numpy as np
import pytest

from mmadclr.compare.chance import add_differences, difference
from mmadclr.compare.table import markdown, tabulate

stats = pytest.importorskip('scipy.stats')


@pytest.mark.parametrize(('first', 'second'), [((1.0, 2.0, 4.0), (3.0, 5.5, 4.0)), ((1.0, 1.5), (9.0, 2.0, 4.0, 3.0))])
def test_over_seeds_it_is_welchs_test(first, second):
    found, expected = difference(first, second), stats.ttest_ind(first, second, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert found['p_value'] == pytest.approx(expected.pvalue)
    assert (found['low'], found['high']) == pytest.approx((interval.low, interval.high))
    assert found['value'] == pytest.approx(np.mean(first) - np.mean(second))


def test_one_seed_tells_nothing():
    assert difference([3.0], [1.0, 2.0]) is None


def test_seeds_without_any_spread():
    assert difference([1.0, 1.0], [1.0, 1.0])['p_value'] == 1
    assert difference([2.0, 2.0], [1.0, 1.0])['p_value'] == 0


def experiment(rng, gain, seeds=3, images=60, draws=200):
    """Two methods: effects of the images, shared but for a part of each method, and of the seeds; values and samples."""
    shared, rows = rng.normal(0, 5, images), rng.integers(images, size=(draws, images))
    found = []
    for shift in (gain, 0.0):
        own = rng.normal(0, 3, images)
        scores = [shift + shared + own + rng.normal(0, 0.2) for _ in range(seeds)]
        found.append(([score.mean() for score in scores], [score[rows].mean(axis=1) for score in scores]))
    return found


def share_significant(gain, with_images):
    rng, count = np.random.default_rng(0), 0
    for _ in range(150):
        (ours, drawn), (theirs, others) = experiment(rng, gain)
        found = difference(ours, theirs, drawn, others) if with_images else difference(ours, theirs)
        count += found['p_value'] < 0.05
    return count / 150


def test_chance_of_the_images_counts():
    assert share_significant(0.0, with_images=True) < 0.1  # .05 expected
    assert share_significant(0.0, with_images=False) > 0.2  # what seeds alone would claim
    assert share_significant(3.0, with_images=True) > 0.95


def test_cells_that_differ_are_marked():
    name = 'suite voc patch_knn_mIoU'
    results = {
        'a': {seed: {'knn': 10.0 + seed, name: 30.0 + seed, 'images_per_s': 100.0 + seed} for seed in range(3)},
        'b': {seed: {'knn': 10.5 + seed, name: 90.0 + seed, 'images_per_s': 900.0 + seed} for seed in range(3)},
    }
    table = tabulate(results)
    add_differences(table, 'a', ['b'], ['knn', name], {})
    lines = markdown(table).splitlines()
    assert lines[0] == '|  | k-NN top-1 (%) | voc patch_knn_mIoU (%) | images/s |'
    assert lines[2:4] == [
        '| a | 11.0 ± 1.0 (3) | 31.0 ± 1.0 (3) | 101 ± 1 (3) |',
        '| b | 11.5 ± 1.0 (3) | 91.0 ± 1.0 (3) \\* | 901 ± 1 (3) |',
    ]
    noisy = {
        row: {name: {seed: np.random.default_rng(row == 'a').normal(50, 40, 100) for seed in range(3)}} for row in results
    }
    add_differences(table, 'a', ['b'], [name], noisy)
    assert markdown(table).splitlines()[3] == '| b | 11.5 ± 1.0 (3) | 91.0 ± 1.0 (3) | 901 ± 1 (3) |'
