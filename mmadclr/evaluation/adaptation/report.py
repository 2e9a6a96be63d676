"""A comparison as JSON, plain text and Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from mmadclr.evaluation.adaptation.comparison import MODELS, Comparison, Row, p_text, signed, word_of
from mmadclr.evaluation.dense.bootstrap import Interval

DRIFT = {
    'drift_cls_cka': 'CKA of images',
    'drift_cls_cosine': 'mean cosine of images',
    'drift_patch_cka': 'CKA of patches',
    'drift_patch_cosine': 'mean cosine of patches',
}


def as_json(comparison: Comparison) -> str:
    """All numbers; undefined ones are null. The same comparison gives the same text."""
    content = {
        'verdict': comparison.verdict,
        'summary': comparison.summary,
        'notes': list(comparison.notes),
        'images': comparison.images,
        'level': comparison.level,
        'measures': {row.name: _measure(row) for row in comparison.rows},
        'drift': comparison.drift,
    }
    return json.dumps(_finite(content), indent=2) + '\n'


def as_text(comparison: Comparison) -> str:
    """A table in columns, the drift, the verdict and its limits."""
    return '\n'.join([*_columns(_table(comparison)), '', *_closing(comparison)]) + '\n'


def as_markdown(comparison: Comparison) -> str:
    """The same with a Markdown table."""
    table = _table(comparison)
    lines = ['| ' + ' | '.join(cells) + ' |' for cells in table]
    lines.insert(1, '|' + '---|' * len(table[0]))
    return '\n'.join([*lines, '', '\n\n'.join(_closing(comparison))]) + '\n'


def _table(comparison: Comparison) -> list[list[str]]:
    models = [model for model in MODELS if model in comparison.rows[0].values]
    table = [['measure', *models, 'change', 'p', 'verdict']]
    for row in comparison.rows:
        values = [interval_text(row.values[model]) for model in models]
        found = row.change.interval
        change = f'{signed(found.value)} [{signed(found.low)}, {signed(found.high)}]'
        table.append([row.name, *values, change, p_text(row.change.p_value), _verdict(row)])
    return table


def interval_text(found: Interval) -> str:
    """A value with its interval, to four digits."""
    return f'{found.value:.4g} [{found.low:.4g}, {found.high:.4g}]'


def _verdict(row: Row) -> str:
    word = word_of(row)
    return word if row.decides else f'{word} ({"does not decide" if row.kind.decides else "only describes"})'


def _columns(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ['  '.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in table]


def _closing(comparison: Comparison) -> list[str]:
    """Meaning of the measures, drift, verdict and notes: one line each."""
    intervals = f'Brackets: {100 * comparison.level:g} % intervals over images; change: adapted minus original.'
    meanings = ' '.join(f'{row.name}: {row.kind.about}.' for row in comparison.rows)
    lines = [f'{intervals} {meanings}']
    for model, numbers in comparison.drift.items():
        found = ', '.join(f'{DRIFT[name]} {value:.3f}' for name, value in numbers.items())
        lines.append(f'Similarity of the {model} to the original features (1: equal): {found}.')
    return [*lines, comparison.summary, *(f'Note: {note}.' for note in comparison.notes)]


def _measure(row: Row) -> dict[str, Any]:
    return {
        'higher_is_better': row.kind.higher,
        'decides': row.decides,
        'images': row.units,
        **{model: found._asdict() for model, found in row.values.items()},
        'change': {**row.change.interval._asdict(), 'p_value': row.change.p_value},
        'verdict': row.verdict,
    }


def _finite(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _finite(child) for name, child in node.items()}
    return None if isinstance(node, float) and not math.isfinite(node) else node
