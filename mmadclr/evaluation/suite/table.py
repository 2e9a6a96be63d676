"""The plan and the results of the dense suite as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmadclr.evaluation.suite.plan import Job
from mmadclr.evaluation.suite.published import comparable

HEADER = ('benchmark', 'metric', 'value', '95 % interval', 'units')


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Rows as lines with aligned columns; those in ``right`` are aligned right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        '  '.join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def rows_of(benchmark: str, record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each metric of a result."""
    return [
        (
            benchmark,
            name,
            f'{found["value"]:.1f}',
            '-' if found['low'] is None else f'{found["low"]:.1f} to {found["high"]:.1f}',
            str(record['units']),
        )
        for name, found in record['metrics'].items()
    ]


def result_table(records: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    """All metrics, then notes. Keys are benchmark and protocol."""
    rows = [row for (benchmark, _), record in records.items() for row in rows_of(benchmark, record)]
    lines = columns([HEADER, *rows], right=(2, 4))
    notes = [f'{benchmark} {name}: {note}' for (benchmark, name), record in records.items() for note in record['notes']]
    return '\n'.join([*lines, *([''] if notes else []), *notes])


def published_rows(
    jobs: Sequence[Job], patch_size: int, records: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Published results that are comparable with those of the jobs."""
    found = []
    for job in jobs:
        for each in comparable(job.benchmark, job.scored, job.protocol, job.settings, patch_size):
            metrics = records[job.benchmark, job.protocol]['metrics']
            metric = next(metric for metric in metrics if metric.endswith(each.metric))
            found += [
                dict(benchmark=job.benchmark, metric=metric, backbone=backbone, value=value, source=each.source)
                for backbone, value in each.values.items()
            ]
    return found


def published_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Published results with their sources; empty without any."""
    if not rows:
        return ''
    cells = [(row['benchmark'], row['metric'], f'{row["value"]:.1f}', row['backbone'], row['source']) for row in rows]
    return '\n'.join(['published by others, same settings:', *columns(cells, right=(2,))])


def plan_table(jobs: Sequence[Job]) -> str:
    """What will run on what."""
    rows = [('benchmark', 'protocol', 'input', 'images', 'state')]
    for job in jobs:
        size = f'{job.settings.size}' if job.settings.size else 'native'
        rows.append((job.benchmark, job.protocol, size, job.images, job.state))
    return '\n'.join(columns(rows, right=(3,)))
