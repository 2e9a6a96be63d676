"""The page of all results: what machine, every part, what is missing and why, and which targets were met."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from gpu_parts.context import Record, number, one_line, table


class Target(NamedTuple):
    """What a figure should reach: ``key`` of the row and ``path`` in it; at least ``value``, or at most."""

    what: str
    part: str
    key: str
    path: tuple[str, ...]
    value: float
    unit: str = ''
    at_most: bool = False


def targets(card: str) -> list[Target]:
    """Those of a card; images/s are set for an H200 and an H100 alone."""
    speeds = next((speeds for name, speeds in SPEEDS.items() if name in card), {})
    found = []
    for unit in ('ViT-S/16, 64 images, ADCLR', 'ViT-B/16, 64 images, ADCLR'):
        key, form = f'{unit}, compiled', ('forms', 'compiled')
        if unit in speeds:
            found.append(Target(f'{unit}', 'steps', key, (*form, 'images_per_s'), speeds[unit], 'images/s'))
        found.append(Target(f'{unit}: times the reference form', 'steps', key, (*form, 'times_reference'), 3))
        found.append(Target(f'{unit}: memory, share of the reference form', 'steps', key, ('memory_share',), 50, '%', True))
    for unit in ('ViT-S/16, 64 images', 'ViT-B/16, 64 images'):
        key, what = f'{unit}, 16 workers', f'{unit}, 16 cores: files to weights'
        found.append(Target(what, 'whole', key, ('percent_of_step',), 90, '% of the step'))
    return found


SPEEDS = {
    'H200': {'ViT-S/16, 64 images, ADCLR': 1500, 'ViT-B/16, 64 images, ADCLR': 700},
    'H100': {'ViT-S/16, 64 images, ADCLR': 1200, 'ViT-B/16, 64 images, ADCLR': 550},
}


def page(record: Record, section_of: Callable[[str, dict], list[str]]) -> str:
    """Markdown of a record; a section that cannot be made is a line."""
    machine, settings = record.content['machine'], record.content['settings']
    lines = ['# On a GPU', '', *intro(machine, settings), '', '## Targets', '', *target_lines(record), '']
    for name, part in record.content['parts'].items():
        try:
            lines += [*section_of(name, record.rows(name)), '']
        except Exception as error:  # of whatever a part from another time or machine left in the record
            lines += [f'## {name}', '', f'This section could not be made: {one_line(error)}', '']
        lines += missing_lines(part)
    return '\n'.join(lines).rstrip() + '\n'


def intro(machine: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    listed = ', '.join(f'{name} {value}' for name, value in machine.items() if value)
    lines = [
        'Written by `make gpu` (`benchmarks/gpu.py`); figures are in `gpu.json` beside this page.',
        '',
        f'Measured on: {listed}.',
    ]
    if settings.get('smoke'):
        lines += ['', '**Toy sizes on a CPU (`--smoke`): these figures say nothing but that every part runs.**']
    return lines


def missing_lines(part: dict[str, Any]) -> list[str]:
    """What could not be measured, a line each."""
    problems = [f'* {key}: {row["problem"]}' for key, row in part['rows'].items() if 'problem' in row]
    problems += [f'* {part["note"]}'] if part['note'] else []
    return ['Not measured:', '', *problems, ''] if problems else []


def target_lines(record: Record) -> list[str]:
    cells = []
    for target in targets(record.content['machine'].get('card', '')):
        value = look_up(record.rows(target.part).get(target.key), target.path)
        if value is None:
            verdict = 'not measured'
        else:
            verdict = 'met' if (value <= target.value if target.at_most else value >= target.value) else '**missed**'
        bound = f'{"<=" if target.at_most else ">="} {number(target.value)} {target.unit}'.strip()
        cells.append([target.what, bound, number(value), verdict])
    return table(['', 'target', 'measured', ''], cells)


def look_up(row: dict[str, Any] | None, path: tuple[str, ...]) -> float | None:
    for name in path:
        row = None if row is None else row.get(name)
    return row
