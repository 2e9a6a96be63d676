"""Mean and standard deviation over seeds, as JSON and as a Markdown table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mmadclr.compare.chance import LEVEL


class Column(NamedTuple):
    """``title``: heading; ``digits``: decimals; ``scale``: factor applied to shown values."""

    title: str
    digits: int = 1
    scale: float = 1.0


COLUMNS = {
    'knn': Column('k-NN top-1 (%)'),
    'linear': Column('linear top-1 (%)'),
    'patch_knn_miou': Column('patch k-NN mIoU (%)'),
    'probe_miou': Column('patch linear mIoU (%)'),
    'box_ap': Column('box AP (%)'),
    'mask_ap': Column('mask AP (%)'),
    'miou': Column('mIoU (%)'),
    'images_per_s': Column('images/s', 0),
    'memory_mib': Column('memory (MiB)', 0),
    'parameters': Column('trained parameters (M)', 3, 1e-6),
}

COST = ('images_per_s', 'memory_mib', 'parameters')
SUITE = 'suite '  # begins the names of columns of the dense suite, before benchmark and metric

Metrics = Mapping[str, Any]  # numbers, and text under names that end in _features
Results = Mapping[str, Mapping[int, Metrics]]  # row -> seed -> metrics


def summarize(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean, sample standard deviation (None for one value) and number of values."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {'mean': statistics.fmean(values), 'std': spread, 'n': len(values)}


def columns_of(rows: Iterable[Iterable[str]]) -> list[str]:
    """Columns that rows have: those of :data:`COLUMNS` in their order, with those of the dense suite before the cost."""
    found = dict.fromkeys(name for row in rows for name in row)
    suite = [name for name in found if name.startswith(SUITE)]
    scores = [name for name in COLUMNS if name not in COST]
    return [name for name in (*scores, *suite, *COST) if name in found]


def column_of(name: str) -> Column:
    return Column(f'{name.removeprefix(SUITE)} (%)') if name.startswith(SUITE) else COLUMNS[name]


def tabulate(results: Results) -> dict[str, dict[str, dict]]:
    """Row -> column -> ``mean``, ``std``, ``n`` and the ``values`` by seed; columns without values are omitted."""
    return {
        row: {
            column: summarize(list(values.values())) | {'values': values}
            for column in columns_of(by_seed.values())
            if (values := {seed: metrics[column] for seed, metrics in by_seed.items() if column in metrics})
        }
        for row, by_seed in results.items()
    }


def feature_notes(results: Results) -> list[str]:
    """States which image features k-NN and linear classifiers used, if they differ between rows."""
    notes = []
    for column in ('knn', 'linear'):
        rows: dict[str, list[str]] = {}
        for row, by_seed in results.items():
            for features in {
                metrics[f'{column}_features'] for metrics in by_seed.values() if f'{column}_features' in metrics
            }:
                rows.setdefault(features, []).append(row)
        if len(rows) > 1:
            usual, *others = sorted(rows, key=lambda features: -len(rows[features]))
            exceptions = '; '.join(f'{features} in {", ".join(rows[features])}' for features in others)
            notes.append(f'{COLUMNS[column].title} from features {usual}, but {exceptions}')
    return notes


def markdown(table: Mapping[str, Mapping[str, Mapping]], notes: Sequence[str] = ()) -> str:
    """One row per method; cells are mean ± standard deviation (number of seeds), or empty.

    Those with a ``difference`` that is larger than chance end in an asterisk.
    """
    columns = columns_of(table.values())
    lines = [['', *(column_of(name).title for name in columns)], ['---', *['---:'] * len(columns)]]
    lines += [[title, *(cell(row.get(name), column_of(name)) for name in columns)] for title, row in table.items()]
    text = ''.join(f'| {" | ".join(line)} |\n' for line in lines)
    explained = 'Mean ± standard deviation over seeds (number of seeds).'
    return '\n'.join([text, explained, *(f'* {note}' for note in notes)]) + '\n'


def cell(found: Mapping | None, column: Column) -> str:
    if found is None:
        return ''
    mean = f'{column.scale * found["mean"]:.{column.digits}f}'
    spread = '' if found['std'] is None else f' ± {column.scale * found["std"]:.{column.digits}f}'
    differs = found.get('difference') is not None and found['difference']['p_value'] < 1 - LEVEL
    return f'{mean}{spread} ({found["n"]})' + (' \\*' if differs else '')
