"""Results of evaluations that lie in a work dir as JSON files, with their intervals."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

MAX_ROWS = 120  # of one file
SUITE, SUITE_FILE = Path('work_dirs', 'dense'), 'result.json'  # where `mmadclr dense` writes by default
WORDS = ('verdict', 'summary', 'notes')


class Result(NamedTuple):
    """One number, with the ends of its interval or its standard deviation where the file has them."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    std: float | None = None


class Evaluation(NamedTuple):
    """The numbers and the sentences of one file; ``left_out`` counts numbers beyond :data:`MAX_ROWS`."""

    file: str
    results: list[Result]
    words: list[str]
    left_out: int = 0


def read_evaluations(folder: Path) -> tuple[list[Evaluation], list[str]]:
    """Evaluations of the JSON files in a folder and in those of its sessions, and what was not readable.

    With them those that ``mmadclr dense`` has written below the folder, or by default, for checkpoints of the folder.
    """
    found, problems = [], []
    own = [*folder.glob('*.json'), *folder.glob('*_*/*.json'), *folder.glob(f'*/{SUITE_FILE}')]
    for path in [*sorted(set(own)), *suites_elsewhere(folder)]:
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
        except (ValueError, OSError) as error:
            problems.append(f'{path} is not readable as JSON ({error}); remove it, or write it again')
            continue
        if path not in own and not is_suite_of(content, folder):
            continue
        evaluation = as_evaluation(os.path.relpath(path, folder), content)
        if path.name != 'run.json' and (evaluation.results or evaluation.words):
            found.append(evaluation)
    return found, problems


def suite_folder(checkpoint: Path) -> Path:
    """Where ``mmadclr dense`` writes by default: names of epochs are alike in all runs, so that of the run is part of it."""
    path = checkpoint.absolute()
    return SUITE / f'{path.parent.name}-{path.stem}'


def suite_file(checkpoint: Path) -> Path:
    """The result of ``mmadclr dense`` for a checkpoint, unless it was started with another ``--out``."""
    return suite_folder(checkpoint) / SUITE_FILE


def suites_elsewhere(folder: Path) -> list[Path]:
    """Files that ``mmadclr dense`` may have written for checkpoints of a folder: below this place, or beside the folder."""
    places = {SUITE.absolute(), folder.absolute().parent / SUITE.name}
    return sorted(path for place in places for path in place.glob(f'{glob.escape(folder.absolute().name)}-*/{SUITE_FILE}'))


def is_suite_of(content: Any, folder: Path) -> bool:
    """Whether it is a result of the dense suite for a checkpoint in a folder."""
    checkpoint = content.get('checkpoint') if isinstance(content, Mapping) else None
    return isinstance(checkpoint, str) and Path(checkpoint).resolve().parent == folder.resolve()


def as_evaluation(file: str, content: Any) -> Evaluation:
    """The numbers of a file, in its order; of the dense suite its metrics, without settings and numbers of others."""
    if not isinstance(content, Mapping):
        return Evaluation(file, [], [])
    if {'checkpoint', 'metrics', 'published'} <= content.keys() and isinstance(content['metrics'], Mapping):
        content = {**content['metrics'], 'notes': content.get('notes')}
    results = list(results_in(content))
    return Evaluation(file, results[:MAX_ROWS], list(sentences(content)), max(0, len(results) - MAX_ROWS))


def sentences(content: Mapping) -> Iterator[str]:
    for key in WORDS:
        value = content.get(key)
        yield from [value] if isinstance(value, str) else filter(is_text, value) if isinstance(value, list) else ()


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def results_in(node: Mapping, path: str = '') -> Iterator[Result]:
    """Numbers by path: ``{value, low, high}`` is one with an interval, ``name_std`` belongs to ``name``."""
    if is_number(node.get('value')):
        yield Result(path or 'value', node['value'], *(number_of(node, key) for key in ('low', 'high', 'std')))
        return
    for key, value in node.items():
        name = f'{path}.{key}' if path else str(key)
        if isinstance(value, Mapping):
            yield from results_in(value, name)
        elif is_number(value) and not (str(key).endswith('_std') and str(key)[:-4] in node):
            low, high = interval_of(node, str(key))
            yield Result(name, value, low, high, number_of(node, f'{key}_std'))


def interval_of(node: Mapping, key: str) -> tuple[float | None, float | None]:
    """The interval of a number, from a list of two beside it."""
    for name in (f'{key}_interval', f'{key}_ci', f'{key}_ci95'):
        ends = node.get(name)
        if isinstance(ends, list) and len(ends) == 2 and all(map(is_number, ends)):
            return ends[0], ends[1]
    return None, None


def number_of(node: Mapping, key: str) -> float | None:
    value = node.get(key)
    return value if is_number(value) else None


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
