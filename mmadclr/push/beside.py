"""Finds results that were measured with a checkpoint: next to it, in the log of its run, in the suite's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmadclr.checkpoint.reading import read_checkpoint
from mmadclr.checkpoint.run_files import checkpoints
from mmadclr.push.results import Result, dataset_name, is_adaptation, is_suite, read_json, results_of_file
from mmadclr.report.collect import Run, collect
from mmadclr.report.evaluations import suite_file
from mmadclr.report.literals import nested
from mmadclr.report.sessions import session_folders
from mmadclr.urls import is_public_name


class Found(NamedTuple):
    """``results`` by place in words, and ``left``: files that name no checkpoint and may be of others."""

    results: dict[str, list[Result]]
    left: list[Path]


def find_results(checkpoint: str | Path) -> Found:
    """Results that can only be those of this checkpoint; none for folders and names of public models.

    * ``adaptation.json`` next to it, for the checkpoint that the adaptation measured.
    * JSON files of ``mmadclr dense`` that name it, next to it or in the default folder of the suite.
    * Validations of its run (``vis_data/scalars.json``) at its epoch.

    Raises:
        ValueError: A file of results cannot be read.
    """
    path = Path(checkpoint)
    if is_public_name(str(checkpoint)) or not path.is_file():
        return Found({}, [])
    found: dict[str, list[Result]] = {}
    left = []
    run = collect(path.parent) if session_folders(path.parent) else None
    data = None if run is None else data_of_run(run.config)
    for file in (*sorted(path.parent.glob('*.json')), *sorted(path.parent.glob('*/result.json')), suite_file(path)):
        content = read_json(file) if file.is_file() else None
        if not isinstance(content, Mapping):
            continue
        if (is_adaptation(content) and path.resolve() == adapted(path.parent)) or (
            is_suite(content) and names(content['checkpoint'], path)
        ):
            found[str(file)] = results_of_file(file, data)
        elif not is_adaptation(content) and not is_suite(content) and 'inputs' in content:
            left.append(file)
    if run is not None and (logged := results_of_log(run, path, data)):
        found[f'the log of the run in {path.parent}'] = logged
    return Found(found, left)


def names(text: Any, checkpoint: Path) -> bool:
    """Whether a recorded path is that of the checkpoint."""
    return isinstance(text, str) and Path(text).resolve() == checkpoint.resolve()


def adapted(folder: Path) -> Path | None:
    """The checkpoint that an adaptation measured: its best one, or without one its last."""
    best = sorted(folder.glob('best_*.pth'))
    found = best or checkpoints(folder)
    return found[0].resolve() if found else None


def data_of_run(config: Mapping) -> str | None:
    """Name of the validation images of a run."""
    root = nested(config, 'val_dataloader', 'dataset', 'data_root')
    return dataset_name(root) if isinstance(root, str) else None


def results_of_log(run: Run, checkpoint: Path, data: str | None) -> list[Result]:
    """Validations of a run after the epoch that a checkpoint was saved at the end of."""
    epoch = whole_epoch(read_checkpoint(checkpoint, mapped=True))
    if epoch is None or run.validation_axis != 'epoch':
        return []
    values = {name: dict(zip(series.x, series.y, strict=True)).get(epoch) for name, series in run.validation.items()}
    source = f'log of the run, epoch {epoch}'
    return [Result(data or 'images', name, value, source) for name, value in values.items() if value is not None]


def whole_epoch(checkpoint: Mapping) -> int | None:
    """Number of the epoch that a checkpoint was saved at the end of; None if it was saved within one."""
    meta, position = checkpoint.get('meta'), checkpoint.get('position')
    epoch = meta.get('epoch') if isinstance(meta, Mapping) else None
    within = isinstance(position, Mapping) and position.get('batch')
    return epoch if isinstance(epoch, int) and not within else None
