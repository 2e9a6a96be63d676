"""Reads a work dir into one value, whatever is there: a run that is finished, stopped, crashed or being written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from mmadclr.checkpoint.reading import read_checkpoint
from mmadclr.checkpoint.run_files import checkpoints
from mmadclr.report.evaluations import Evaluation, read_evaluations
from mmadclr.report.features import History, read_features, with_newest
from mmadclr.report.literals import nested, read_literals
from mmadclr.report.scalars import MONITOR, TRAIN, VALIDATION, Series, joined, series
from mmadclr.report.sessions import Session, of_current_run, read_session, session_folders

CROPS = 'crops.png'
PICTURES = (CROPS, 'attention.png')  # written by the demo
PREDICTIONS, NEWEST = 'vis_data/vis_image', 8  # drawn in validations by the hooks of mmdet, mmseg and mmpretrain
KINDS = {'mmadclr': 'pretraining', 'mmdet': 'detection', 'mmseg': 'segmentation', 'mmpretrain': 'classification'}
SHOWN_SKIPS = 50


class Skipped(NamedTuple):
    """A skipped optimizer step: ``losses`` that were not finite, and its ``images`` over all processes."""

    iteration: int
    epoch: int
    losses: list[str]
    images: list[str]


class Run(NamedTuple):
    """Everything that a work dir tells.

    Attributes:
        folder: The work dir.
        kind: ``pretraining``, ``detection``, ``segmentation``, ``classification``, or ``training`` if unknown.
        config: Settings by name; empty if there is no config.
        config_file: The complete config in the work dir, with which the run can be resumed.
        sessions: Starts and resumptions of the current run.
        others: Sessions of earlier runs in the same folder, and of evaluations.
        train, monitor, validation: Scalars by name; the x of ``validation`` is ``validation_axis``.
        skipped: Skipped steps, at most :data:`SHOWN_SKIPS`; ``skips`` counts all.
        unreadable: Messages about unreadable images.
        checkpoints: Files, the newest first.
        meta: Facts in the newest checkpoint.
        evaluations: Results in JSON files of the work dir.
        pictures: Files of pictures.
        features: Of a few images over the run; None if it has stored none.
        notes: What is missing or damaged, in words.
        now: When the work dir was read.
    """

    folder: Path
    kind: str
    config: dict[str, Any]
    config_file: Path | None
    sessions: list[Session]
    others: list[Session]
    train: dict[str, Series]
    monitor: dict[str, Series]
    validation: dict[str, Series]
    validation_axis: str
    skipped: list[Skipped]
    skips: int
    unreadable: list[str]
    checkpoints: list[Path]
    meta: dict[str, Any]
    evaluations: list[Evaluation]
    pictures: list[Path]
    features: History | None
    notes: list[str]
    now: datetime

    @property
    def facts(self) -> dict[str, str]:
        """Rows of the newest summary in its logs."""
        return {name: text for session in self.sessions for name, text in session.log.facts.items()}

    @property
    def method(self) -> str:
        return self.facts.get('method') or str(nested(self.config, 'model', 'type') or 'unknown method')


def collect(work_dir: str | Path, newest: bool = False) -> Run:
    """Reads a work dir.

    Args:
        work_dir: The folder.
        newest: Also computes the features of the newest checkpoint of a pretraining run, which takes seconds.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It is a file, or has no run, or nothing in it can be read.
    """
    folder = checked(Path(work_dir))
    read = [read_session(path) for path in session_folders(folder)]
    sessions, notes = [session for session, _ in read], [note for _, problems in read for note in problems]
    if not any(session.records or session.log.began for session in sessions):
        why = f': {notes[0]}' if notes else ''
        raise ValueError(f'{folder}: nothing of its runs can be read{why}; name the work dir of another run')
    current = of_current_run(sessions)
    records = joined([session.records for session in current], [session.start for session in current])
    config, file, problems = read_config(folder, current or sessions)
    skipped, skips, damage = read_skipped(folder / 'skipped_steps.jsonl')
    found = checkpoints(folder)
    meta, broken = read_meta(found)
    evaluations, unread = read_evaluations(folder)
    features, lost = read_features(current)
    kind = KINDS.get(str(config.get('default_scope')), 'training')
    if newest and kind == 'pretraining' and found:
        features, more = with_newest(features, config, found[0], meta)
        lost += more
    by_epoch = nested(config, 'log_processor', 'by_epoch') is not False
    return Run(
        folder=folder,
        kind=kind,
        config=config,
        config_file=file,
        sessions=current,
        others=[session for session in sessions if session not in current],
        train=series(records, TRAIN),
        monitor=series(records, MONITOR),
        validation=series(records, VALIDATION),
        validation_axis='epoch' if by_epoch else 'iteration',
        skipped=skipped,
        skips=skips,
        unreadable=read_lines(folder / 'unreadable_images.txt'),
        checkpoints=found,
        meta=meta,
        evaluations=evaluations,
        pictures=find_pictures(folder, current),
        features=features,
        notes=[*notes, *problems, *damage, *broken, *unread, *lost, *missing(records, found)],
        now=datetime.now(),
    )


def checked(folder: Path) -> Path:
    """A work dir with at least one run; see :func:`collect` for the errors."""
    if folder.is_file():
        raise ValueError(f'{folder} is a file, not the work dir of a run: name its folder, such as {folder.parent}')
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder} does not exist: name the work dir of a run (--work-dir of mmadclr train)')
    if not session_folders(folder):
        inside = sorted(str(path) for path in folder.iterdir() if path.is_dir() and session_folders(path))
        hint = f'there are runs in {", ".join(inside[:3])}' if inside else 'name the --work-dir of mmadclr train'
        raise ValueError(f'{folder} contains no run (no folder <time> with a log): {hint}')
    return folder


def read_config(folder: Path, sessions: Sequence[Session]) -> tuple[dict[str, Any], Path | None, list[str]]:
    """The newest config, the file to resume with, and what is wrong."""
    complete = sorted(folder.glob('*.py'), key=lambda path: path.stat().st_mtime)
    stored = [session.config for session in sessions if session.config is not None]
    problems: list[str] = []
    for path in [*reversed(stored), *reversed(complete)]:
        try:
            return read_literals(path.read_text(encoding='utf-8')), next(reversed(complete), None), problems
        except (ValueError, OSError) as error:
            problems.append(f'{path} cannot be read: {error}')
    return {}, None, [*problems, 'there is no config in the work dir: settings are unknown']


def read_skipped(path: Path) -> tuple[list[Skipped], int, list[str]]:
    """Skipped steps of the record, their number, and what is damaged in it; a line without an end is being written."""
    steps: list[Skipped] = []
    damaged = []
    for number, line in enumerate(path.read_text(encoding='utf-8').splitlines() if path.is_file() else [], start=1):
        try:
            steps.append(as_skipped(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            damaged.append(number)
    notes = [f'{path}: line {damaged[0]} is not readable and was left out; remove or repair it'] if damaged else []
    return steps[:SHOWN_SKIPS], len(steps), notes


def as_skipped(content: dict[str, Any]) -> Skipped:
    batches = content['batches']
    broken = {name for batch in batches for name, value in batch['losses'].items() if value - value != 0}
    images = [name for batch in batches for name in batch['images']]
    return Skipped(content['iteration'], content['epoch'], sorted(broken), images)


def read_lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    return [line for line in path.read_text(encoding='utf-8', errors='replace').splitlines() if line.strip()]


def read_meta(found: Sequence[Path]) -> tuple[dict[str, Any], list[str]]:
    """Facts of the newest checkpoint in plain types; tensors stay on the disk."""
    if not found:
        return {}, []
    try:
        meta = read_checkpoint(found[0], mapped=True).get('meta') or {}
    except (ValueError, OSError) as error:
        return {}, [f'{error}; use the previous checkpoint']
    return {name: value for name, value in meta.items() if isinstance(value, (str, int, float)) and name != 'cfg'}, []


def find_pictures(folder: Path, sessions: Sequence[Session]) -> list[Path]:
    """Those of the demo, or else the crops of the newest session; predictions; then those in the folder ``pictures``."""
    drawn = [session.folder / CROPS for session in reversed(sessions) if (session.folder / CROPS).is_file()]
    own = [folder / name for name in PICTURES]
    own = own if own[0].is_file() else [*drawn[:1], *own]
    for session in sessions[-1:]:
        own += sorted((session.folder / PREDICTIONS).glob('*.png'), key=by_step)[-NEWEST:]
    return [path for path in [*own, *sorted((folder / 'pictures').glob('*.png'))] if path.is_file()]


def by_step(path: Path) -> tuple[int, str]:
    """The order of pictures ``<name>_<step>.png``."""
    step = path.stem.rpartition('_')[2]
    return int(step) if step.isdecimal() else -1, path.name


def missing(records: Sequence, found: Sequence[Path]) -> list[str]:
    """What a work dir does not have, in words."""
    notes = []
    if not any(record.kind == TRAIN for record in records):
        notes.append('no training scalars: the run ended before its first line in the log, or wrote none')
    if not any(record.kind == VALIDATION for record in records):
        notes.append('no validation yet: its config has none (val_cfg), or the run has not come to it')
    if not found:
        notes.append('no checkpoint in the work dir')
    return notes
