"""Sessions of a run: each start or resumption has a folder of its own in the work dir, named by its time."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from mmadclr.report.logs import Log, read_log
from mmadclr.report.scalars import TRAIN, Record, read_records

NAME = re.compile(r'\d{8}_\d{6}$')
RECORD = 'run.json'  # in the folder of a session: how it was started and how it ended
RECENT = timedelta(minutes=10)


class Session(NamedTuple):
    """One start or resumption.

    Attributes:
        folder: ``<work_dir>/<time>``.
        log: Of the log file; empty if there is none.
        records: Scalars that it has written.
        record: Command, versions and end, as the run has written them to ``run.json``; empty for older runs.
        config: The file with its config; None if there is none.
        written: When its newest file was written.
    """

    folder: Path
    log: Log
    records: list[Record]
    record: dict[str, Any]
    config: Path | None
    written: datetime | None

    @property
    def trained(self) -> bool:
        return any(record.kind == TRAIN for record in self.records)

    @property
    def is_training(self) -> bool:
        """Whether it trained, or was about to; evaluations of a checkpoint also have folders."""
        return self.trained or 'start' in self.log.facts or bool(self.record)

    @property
    def start(self) -> int | None:
        return self.log.resumed_after

    @property
    def last_iteration(self) -> int | None:
        return max((record.iteration for record in self.records if record.kind == TRAIN), default=None)

    @property
    def seconds(self) -> float:
        if self.log.began is None or self.log.ended is None:
            return 0.0
        return (self.log.ended - self.log.began).total_seconds()

    def end(self, now: datetime) -> str:
        """How it ended, in words."""
        if self.log.done:
            return 'completed'
        told = recorded_end(self)
        if told is not None:
            return told
        if self.written is not None and now - self.written < RECENT:
            return 'running, or it ended a moment ago and recorded nothing'
        return 'no end is recorded: it crashed or was killed'


def recorded_end(session: Session) -> str | None:
    """How a session that did not complete ended, by its own words; None if it is running, or could not say so."""
    stops = [message.text for message in session.log.warnings if 'stopped after iteration' in message.text]
    end = session.record.get('end')
    return stops[-1] if stops else end if isinstance(end, str) else None


def session_folders(work_dir: Path) -> list[Path]:
    """Folders of sessions in a work dir, the oldest first."""
    found = [path for path in work_dir.iterdir() if NAME.match(path.name) and path.is_dir()]
    return sorted(path for path in found if (path / 'vis_data').is_dir() or any(path.glob('*.log')))


def read_session(folder: Path) -> tuple[Session, list[str]]:
    """A session, and what is missing or damaged in its folder."""
    scalars, logs = folder / 'vis_data' / 'scalars.json', sorted(folder.glob('*.log'))
    records, notes = read_records(scalars) if scalars.is_file() else ([], [])
    record, damage = read_record(folder / RECORD)
    config = next((path for path in [folder / 'vis_data' / 'config.py'] if path.is_file()), None)
    log = read_log(logs[0]) if logs else Log()
    if not logs:
        notes.append(f'{folder} has no log file: times, warnings and the machine of this session are unknown')
    files = [path for path in (scalars, *logs) if path.is_file()]
    written = max((path.stat().st_mtime for path in files), default=None)
    return (
        Session(folder, log, records, record, config, None if written is None else datetime.fromtimestamp(written)),
        [*notes, *damage],
    )


def read_record(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        content = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
    except (ValueError, OSError) as error:
        return {}, [f'{path} is not readable as JSON ({error}); the command of this session is unknown']
    return (content, []) if isinstance(content, dict) else ({}, [f'{path} is not a JSON object; it was left out'])


def of_current_run(sessions: Sequence[Session]) -> list[Session]:
    """Training sessions since the last one that trained from the beginning; earlier ones are another run."""
    training = [session for session in sessions if session.is_training]
    fresh = [number for number, session in enumerate(training) if session.start == 0 and session.trained]
    return training[fresh[-1] :] if fresh else training
