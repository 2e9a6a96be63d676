"""Means, spreads and cells, by closed forms."""

import pytest

from mmadclr.compare.table import COLUMNS, feature_notes, markdown, summarize, tabulate


def test_mean_and_sample_deviation():
    # 1, 2, ..., n: mean (n + 1) / 2, sample variance n (n + 1) / 12.
    assert summarize([3.0, 1.0, 2.0]) == {'mean': 2.0, 'std': 1.0, 'n': 3}
    found = summarize([float(x) for x in range(1, 9)])
    assert found == {'mean': 4.5, 'std': pytest.approx(6**0.5), 'n': 8}


def test_one_seed_has_no_spread():
    assert summarize([7.0]) == {'mean': 7.0, 'std': None, 'n': 1}


def test_missing_cells_stay_empty_and_count():
    results = {'a': {0: {'knn': 60.0, 'parameters': 194592}, 1: {'knn': 64.0}}, 'b': {0: {}, 1: {'miou': 30.0}}}
    table = tabulate(results)
    assert table['a']['knn']['values'] == {0: 60.0, 1: 64.0}
    assert set(table['a']) == {'knn', 'parameters'}
    assert set(table['b']) == {'miou'}
    lines = markdown(table, ['a has other data than b']).splitlines()
    assert lines[0] == f'|  | {COLUMNS["knn"].title} | {COLUMNS["miou"].title} | {COLUMNS["parameters"].title} |'
    assert lines[2] == '| a | 62.0 ± 2.8 (2) |  | 0.195 (1) |'
    assert lines[3] == '| b |  | 30.0 (1) |  |'
    assert lines[-1] == '* a has other data than b'


def test_different_features_are_told_apart():
    cls, mean = {'knn': 1.0, 'knn_features': 'cls'}, {'knn': 1.0, 'knn_features': 'mean'}
    assert feature_notes({'a': {0: cls, 1: cls}, 'b': {0: cls}, 'pixels': {0: {'knn': 3.0}}}) == []
    (note,) = feature_notes({'a': {0: cls}, 'b': {0: mean}, 'c': {0: cls}})
    assert note == 'k-NN top-1 (%) from features cls, but mean in b'
