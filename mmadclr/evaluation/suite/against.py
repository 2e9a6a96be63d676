"""Differences between the results of two checkpoints on the same images, with the same settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmadclr.evaluation.dense.bootstrap import Difference, difference_of_scores
from mmadclr.evaluation.suite.records import differences, read_record, record_path
from mmadclr.evaluation.suite.table import columns

Records = Mapping[tuple[str, str], Mapping[str, Any]]  # by benchmark and protocol
OF_EACH = ('weights', 'dtype', 'precision', 'file times')
HEADER = ('benchmark', 'metric', 'this', 'other', 'difference', '95 % interval', 'p')


class Row(NamedTuple):
    """Values of a metric in percent; ``difference``: this minus other, None without samples."""

    benchmark: str
    metric: str
    this: float
    other: float
    difference: Difference | None


def read_others(folder: Path, jobs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Results of a folder of the suite, of those benchmarks and protocols that it has.

    Raises:
        FileNotFoundError: It has none of them.
        ValueError: A file is not a result of this version.
    """
    found = {(name, protocol): read_record(record_path(folder, name, protocol)) for name, protocol in jobs}
    records = {key: record for key, record in found.items() if record is not None}
    if not records:
        asked = ', '.join(f'{name} {protocol}' for name, protocol in jobs)
        raise FileNotFoundError(f'{folder} has no result of {asked}: it must be the --out of another mmadclr dense')
    return records


def compare_records(these: Records, others: Records) -> tuple[list[Row], list[str]]:
    """Rows of the metrics of both, and notes on the results that cannot be compared.

    Both must have the same images, settings and bootstrap samples; weights and precision may differ, and images may be
    copies.
    """
    rows, notes = [], []
    for key, record in these.items():
        if key not in others:
            notes.append(f'{" ".join(key)}: the other folder has no result')
            continue
        other = others[key]
        reasons = differences(_shared(other), _shared(record))
        if reasons:
            notes.append(f'{" ".join(key)}: not compared, {"; ".join(reasons)}')
        else:
            rows += [_row(key[0], name, record, other) for name in record['metrics']]
    return rows, notes


def _shared(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record['identity'].items() if key not in OF_EACH}


def _row(benchmark: str, name: str, record: Mapping[str, Any], other: Mapping[str, Any]) -> Row:
    this, theirs = (each['metrics'][name]['value'] for each in (record, other))
    first, second = samples_of(record, name), samples_of(other, name)
    difference = None if first is None or second is None else difference_of_scores(this - theirs, first, second)
    return Row(benchmark, name, this, theirs, difference)


def samples_of(record: Mapping[str, Any], name: str) -> np.ndarray | None:
    """Bootstrap samples (draws,) of a metric, NaN where it is undefined; None without."""
    found = record.get('samples', {}).get(name)
    return None if found is None else np.array(found, dtype=float)


def against_table(rows: Sequence[Row], notes: Sequence[str], folder: Path) -> str:
    """Rows as text."""
    lines = [f'against {folder}:']
    if rows:
        cells = [(row.benchmark, row.metric, f'{row.this:.1f}', f'{row.other:.1f}', *_cells(row)) for row in rows]
        lines += columns([HEADER, *cells], right=(2, 3, 4, 6))
        lines += ['p: of no difference, by the same samples of the images; it says nothing about other seeds of pretraining']
    return '\n'.join([*lines, *notes])


def _cells(row: Row) -> tuple[str, str, str]:
    difference = f'{row.this - row.other:+.1f}'
    if row.difference is None:
        return difference, '-', '-'
    interval = row.difference.interval
    return difference, f'{interval.low:+.1f} to {interval.high:+.1f}', f'{row.difference.p_value:.3f}'


def as_json(row: Row) -> dict[str, Any]:
    """A row for ``result.json``."""
    found = row.difference
    tested = {} if found is None else dict(low=found.interval.low, high=found.interval.high, p_value=found.p_value)
    return dict(benchmark=row.benchmark, metric=row.metric, this=row.this, other=row.other, **tested)
