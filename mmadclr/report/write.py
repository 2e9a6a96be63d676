"""Writes a report from work dirs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmadclr.files import atomic_path
from mmadclr.report.collect import collect
from mmadclr.report.page import page

NAME = 'report.html'


def write_report(
    work_dirs: Sequence[str | Path], out: str | Path | None = None, newest: bool = False
) -> tuple[Path, list[str]]:
    """Writes the report on one run, or on several side by side.

    Args:
        work_dirs: Work dirs of runs.
        out: File to write; by default ``report.html`` in the first work dir.
        newest: Adds the features of the newest checkpoint of pretraining runs that have not stored them, in seconds.

    Returns:
        The file, and what is missing or damaged in the work dirs, in words.

    Raises:
        FileNotFoundError: A work dir does not exist.
        ValueError: One is not a work dir, nothing in it can be read, or the report cannot be written.
    """
    runs = [collect(folder, newest) for folder in work_dirs]
    path = Path(work_dirs[0], NAME) if out is None else Path(out)
    text = page(runs)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding='utf-8')
    return path, [note for run in runs for note in run.notes]
