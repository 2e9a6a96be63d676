"""Held-out splits and few-shot subsets against their definitions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mmadclr.datasets.subsets import few_shot, held_out

COUNTS = {0: 1, 3: 2, 4: 10, 7: 25, 9: 104}


@pytest.fixture
def labels():
    values = np.repeat(list(COUNTS), list(COUNTS.values()))
    return np.random.default_rng(5).permutation(values)


@pytest.mark.parametrize(
    ('fraction', 'expected'),
    [
        (0.1, {0: 0, 3: 1, 4: 1, 7: 2, 9: 10}),
        (0.001, {0: 0, 3: 1, 4: 1, 7: 1, 9: 1}),
        (0.99, {0: 0, 3: 1, 4: 9, 7: 24, 9: 103}),
    ],
)
def test_held_out_share_of_every_class(labels, fraction, expected):
    mask = held_out(labels, fraction)
    assert mask.dtype == bool
    assert mask.shape == labels.shape
    found = Counter(labels[mask].tolist())
    assert {label: found[label] for label in COUNTS} == expected


def test_subsets_are_functions_of_labels_and_seed(labels):
    for subset, setting in ((held_out, 0.3), (few_shot, 1)):
        assert np.array_equal(subset(labels, setting), subset(labels.tolist(), setting, 0))
        assert not np.array_equal(subset(labels, setting, seed=1), subset(labels, setting, seed=2))


def test_every_image_is_held_out_by_some_seed_equally_often():
    labels = np.repeat([0, 1], 10)
    share = np.mean([held_out(labels, 0.2, seed) for seed in range(2000)], axis=0)
    # A binomial share of 2000 draws: 5 standard deviations.
    assert np.abs(share - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / 2000)


def test_few_shot_takes_as_many_of_each_class_and_nests(labels):
    labels = labels[labels > 3]
    few, more = few_shot(labels, 3), few_shot(labels, 10)
    assert few.dtype == np.int64
    assert Counter(labels[few].tolist()) == {4: 3, 7: 3, 9: 3}
    assert np.array_equal(few, np.unique(few))
    assert set(few) < set(more)
    assert np.array_equal(few_shot(labels[labels == 4], 10), np.arange(10))


@pytest.mark.parametrize(
    ('subset', 'setting', 'message'),
    [
        (held_out, 0.0, 'fraction 0.0'),
        (held_out, 1, 'fraction 1'),
        (few_shot, 0, 'shots=0'),
        (few_shot, 2, r'shots=2: class 0 has only 1 images'),
        (few_shot, 26, 'class 0'),
    ],
)
def test_impossible_subsets_are_errors(labels, subset, setting, message):
    with pytest.raises(ValueError, match=message):
        subset(labels, setting)


def test_empty_set():
    empty = np.zeros(0, dtype=np.int64)
    assert held_out(empty, 0.1).shape == few_shot(empty, 1).shape == (0,)
