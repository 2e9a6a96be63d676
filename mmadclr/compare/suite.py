"""The dense suite as a part of a comparison: a column for each protocol and benchmark."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmadclr.compare.jobs import Job
from mmadclr.compare.table import SUITE, Metrics

OUT = 'out'  # of the suite, whose result has the name of the job's


def suite_arguments(args: Namespace) -> list[str]:
    """Arguments of ``mmadclr dense`` from those of ``mmadclr compare``, without checkpoint and output folder."""
    if not args.suite:
        return []
    found = ['--suite', args.suite]
    for name in ('data_root', 'protocols', 'size'):
        value = getattr(args, f'suite_{name}')
        found += [] if value is None else [f'--{name.replace("_", "-")}', str(value)]
    changed = [f'{key}={value}' for key, value in args.suite_set.items()]
    return [*found, *(['--set', *changed] if changed else [])]


def suite_job(checkpoint: Path, arguments: Sequence[str], folder: Path, program: Sequence[str], first: Job) -> Job:
    """The dense suite on a checkpoint, continued if it was stopped."""
    command = [*program, 'dense', str(checkpoint), *arguments, '--out', str(folder / OUT)]
    return Job(folder, command, {'tool': 'dense', 'arguments': list(arguments)}, read_suite, needs=first)


def records_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Results in the folder of a job by the name of the column, which has the first metric of the protocol."""
    found = {}
    for file in sorted((folder / OUT / 'results').glob('*.json')):
        record = json.loads(file.read_text())
        found[f'{SUITE}{file.name.split(".")[0]} {next(iter(record["metrics"]))}'] = record
    return found


def read_suite(folder: Path, memory: float) -> Metrics:
    return {column: next(iter(record['metrics'].values()))['value'] for column, record in records_of(folder).items()}


def samples_of(folder: Path) -> dict[str, np.ndarray]:
    """Scores (draws,) of bootstrap samples of the images by column, NaN where they are undefined."""
    found = {}
    for column, record in records_of(folder).items():
        samples = record.get('samples', {}).get(next(iter(record['metrics'])))
        if samples is not None:
            found[column] = np.array(samples, dtype=float)
    return found
