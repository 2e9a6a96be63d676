"""Scalars of runs that were stopped, resumed, killed while they wrote."""

import json
import math
import random

import pytest
from written_runs import monitor_record, train_record, write_session

from mmadclr.report.scalars import (
    MONITOR,
    TRAIN,
    VALIDATION,
    Record,
    Series,
    as_series,
    joined,
    read_records,
    series,
    thinned,
)


def scalars_of(folder):
    return folder / 'vis_data' / 'scalars.json'


def test_kinds_and_places_of_records(tmp_path):
    lines = [monitor_record(10), train_record(10, loss=2.5), {'knn_top1': 40.0, 'time': 3.0, 'step': 1}]
    records, problems = read_records(scalars_of(write_session(tmp_path, records=lines)))
    assert [(r.kind, r.iteration, r.step) for r in records] == [(MONITOR, 10, 10), (TRAIN, 10, 10), (VALIDATION, 10, 1)]
    assert problems == []
    assert series(records, TRAIN)['loss'] == Series([10], [2.5])
    assert series(records, VALIDATION) == {'knn_top1': Series([1.0], [40.0])}  # times of validations are not metrics


@pytest.mark.parametrize('cut', [1, 5, 20])
def test_a_line_that_is_being_written_is_no_problem(tmp_path, cut):
    path = scalars_of(write_session(tmp_path, records=[train_record(1), train_record(2)]))
    path.write_text(path.read_text()[: -1 - cut])
    records, problems = read_records(path)
    assert [r.iteration for r in records] == [1]
    assert problems == []


def test_a_last_line_without_its_end_that_is_complete_counts(tmp_path):
    path = scalars_of(write_session(tmp_path, records=[train_record(1), train_record(2)]))
    path.write_text(path.read_text().rstrip('\n'))
    assert [r.iteration for r in read_records(path)[0]] == [1, 2]


@pytest.mark.parametrize('broken', ['{"loss": 1', '[1, 2]', 'null', '\x00\x00', 'loss 3'])
def test_damaged_lines_are_named(tmp_path, broken):
    path = scalars_of(write_session(tmp_path, records=[train_record(1), train_record(3)]))
    first, last = path.read_text().splitlines()
    path.write_text(f'{first}\n{broken}\n{last}\n')
    records, (problem,) = read_records(path)
    assert [r.iteration for r in records] == [1, 3]
    assert str(path) in problem
    assert '(line 2)' in problem


def test_what_a_resumed_session_repeats_replaces_the_first_attempt():
    first = [Record(TRAIN, i, i, {'loss': 1.0}) for i in (5, 10, 15)] + [Record(VALIDATION, 15, 2, {'knn': 1.0})]
    second = [Record(TRAIN, i, i, {'loss': 2.0}) for i in (12, 17)]
    for starts in ([0, 10], [0, None]):  # without a log, the first line after the resumption tells
        records = joined([first, second], starts)
        assert series(records, TRAIN)['loss'] == Series([5, 10, 12, 17], [1.0, 1.0, 2.0, 2.0])
        assert series(records, VALIDATION) == {}


def test_numbers_that_are_not_finite_are_gaps():
    assert as_series({2: math.nan, 1: 3.0, 3: math.inf}) == Series([1, 2, 3], [3.0, None, None])


def test_thinning_keeps_ends_and_peaks():
    draw = random.Random(0)
    y = [draw.random() for _ in range(100_000)]
    y[31_234], y[77_777], y[5] = 50.0, -50.0, None
    full = Series(list(range(100_000)), y)
    less = thinned(full)
    assert len(less.x) <= 1200
    assert less.x == sorted(set(less.x))
    assert {0, 31_234, 77_777, 99_999} <= set(less.x)
    assert all(y[x] == value for x, value in zip(less.x, less.y, strict=True))
    assert thinned(Series([1, 2], [1.0, None])) == Series([1, 2], [1.0, None])
    assert json.dumps(thinned(Series(list(range(5000)), [None] * 5000)).y).count('null') > 1
