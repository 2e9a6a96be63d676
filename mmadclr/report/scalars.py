"""Scalars of a run from mmengine's JSON lines (``vis_data/scalars.json``), across all its stops and resumptions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TRAIN, MONITOR, VALIDATION = 'train', 'monitor', 'validation'
NOT_METRICS = ('step', 'iter', 'epoch', 'time', 'data_time', 'memory')


class Record(NamedTuple):
    """One line: its kind, the iterations done before it or with it, its step (an epoch, in validations), its numbers."""

    kind: str
    iteration: int
    step: float
    values: dict[str, float]


class Series(NamedTuple):
    """A scalar over the run: ``x`` (iterations, or epochs for validations) ascending, ``y`` None where it is not finite."""

    x: list[float]
    y: list[float | None]


def read_records(path: Path) -> tuple[list[Record], list[str]]:
    """Records of a file, and what was not readable in it.

    A last line without an end is being written and is not a problem.
    """
    text = path.read_text(encoding='utf-8', errors='replace')
    *lines, torn = text.split('\n')
    records: list[Record] = []
    damaged = []
    for number, line in enumerate([*lines, torn], start=1):
        content = parsed(line)
        if content is not None:
            records.append(as_record(content, records[-1].iteration if records else 0))
        elif line.strip() and number <= len(lines):
            damaged.append(number)
    return records, [describe_damage(path, damaged, len(lines))] if damaged else []


def parsed(line: str) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def describe_damage(path: Path, damaged: Sequence[int], total: int) -> str:
    """One line about unreadable lines."""
    first = ', '.join(map(str, damaged[:4])) + (', ...' if len(damaged) > 4 else '')
    return f'{path}: {len(damaged)} of {total} lines are not JSON and were left out (line {first}); remove or repair them'


def as_record(content: dict[str, Any], before: int) -> Record:
    """The record of a line; ``before`` is the iteration of the previous one."""
    values = {name: float(value) for name, value in content.items() if is_number(value)}
    step = values.get('step', before)
    if 'loss' in values or 'iter' in values:
        return Record(TRAIN, int(values.get('iter', step)), step, values)
    if any(name.startswith('monitor/') for name in values):
        return Record(MONITOR, int(step), step, values)
    return Record(VALIDATION, before, step, values)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def joined(parts: Sequence[Sequence[Record]], starts: Sequence[int | None]) -> list[Record]:
    """Records of consecutive sessions of one run: what a later session has repeated replaces what was there.

    Args:
        parts: Records of each session.
        starts: Iterations that were done when each began; None if unknown.
    """
    kept: list[Record] = []
    for records, start in zip(parts, starts, strict=True):
        first = min((record.iteration for record in records if record.kind != VALIDATION), default=None)
        limit = start if start is not None else first - 1 if first is not None else None
        if first is not None and limit is not None:  # a session that wrote nothing has repeated nothing
            kept = [record for record in kept if record.iteration <= limit]
        kept += [record._replace(iteration=max(record.iteration, limit or 0)) for record in records]
    return kept


def series(records: Iterable[Record], kind: str) -> dict[str, Series]:
    """Scalars of one kind of record by name; of two with the same step, the later one counts."""
    points: dict[str, dict[float, float]] = {}
    for record in records:
        if record.kind == kind:
            for name, value in record.values.items():
                if name not in NOT_METRICS[:3] and not (kind == VALIDATION and name in NOT_METRICS):
                    points.setdefault(name, {})[record.step if kind == VALIDATION else record.iteration] = value
    return {name: as_series(found) for name, found in points.items()}


def as_series(points: dict[float, float]) -> Series:
    steps = sorted(points)
    return Series(list(steps), [points[step] if math.isfinite(points[step]) else None for step in steps])


def thinned(full: Series, limit: int = 1200) -> Series:
    """At most ``limit`` points: from each stretch, the smallest and the largest, so that peaks stay."""
    count = len(full.x)
    if count <= limit:
        return full
    stretches = (limit - 2) // 2
    kept = {0, count - 1}
    for number in range(stretches):
        indices = range(number * count // stretches, (number + 1) * count // stretches)
        finite = [index for index in indices if full.y[index] is not None] or [indices[0]]
        kept |= {min(finite, key=lambda i: full.y[i] or 0.0), max(finite, key=lambda i: full.y[i] or 0.0)}
    order = sorted(kept)
    return Series([full.x[i] for i in order], [full.y[i] for i in order])
