"""A run in words and key figures: how far it came, how it ended, where the time went, what to do next."""

from __future__ import annotations

import shlex
from datetime import timedelta
from pathlib import Path
from typing import Any

from mmadclr.report.collect import Run
from mmadclr.report.literals import nested
from mmadclr.report.scalars import Series

HEADLINES = {'knn': 'k-NN top-1', 'patch_linear_miou': 'probe mIoU', 'bbox_mAP': 'box mAP', 'segm_mAP': 'mask mAP'}
HEADLINES |= {'mIoU': 'mIoU', 'top1': 'top-1'}
FRACTIONS = ('coco/',)  # metrics from 0 to 1; all others are percent


def last(series: Series | None) -> float | None:
    """The newest finite value."""
    return next((y for y in reversed(series.y) if y is not None), None) if series else None


def total_iterations(run: Run) -> int | None:
    """Iterations of the complete run, from its summary or config."""
    words = run.facts.get('length', '').replace(',', '').rpartition('= ')[2].split()
    if words and words[0].isdecimal():
        return int(words[0])
    iterations = nested(run.config, 'train_cfg', 'max_iters')
    return iterations if isinstance(iterations, int) else None


def iterations_done(run: Run) -> int:
    """Iterations in the log or in the newest checkpoint."""
    logged = max((session.last_iteration or 0 for session in run.sessions), default=0)
    saved = run.meta.get('iter', 0)
    return max(logged, saved if isinstance(saved, int) else 0)


def is_complete(run: Run) -> bool:
    """Whether the whole run is done, by its last words or its newest checkpoint."""
    if run.sessions and run.sessions[-1].log.done:
        return True
    epochs = nested(run.config, 'train_cfg', 'max_epochs')
    return iterations_done(run) == total_iterations(run) or (epochs is not None and run.meta.get('epoch') == epochs)


def status(run: Run) -> tuple[str, str]:
    """``good``, ``bad`` or ``unknown``, and how the run ended or where it is."""
    if not run.sessions:
        return 'unknown', 'This folder has only evaluations, no training.'
    total, done = total_iterations(run), iterations_done(run)
    reached = f'{done:,} of {total:,} iterations' if total else f'{done:,} iterations'
    if is_complete(run):
        return 'good', f'Completed: {reached} in {duration(wall_seconds(run))}.'
    end = run.sessions[-1].end(run.now)
    kind = 'unknown' if end.startswith('running') or 'resume with --resume' in end else 'bad'
    return kind, f'Not complete: {reached}. {end[:1].upper()}{end[1:]}.'


def headline_metrics(run: Run) -> list[tuple[str, str, Series]]:
    """Title, name and scalars of the metrics to show first."""
    found: dict[str, tuple[str, Series]] = {}
    for part, title in HEADLINES.items():
        names = [name for name in run.validation if part in name and not name.startswith('patch_knn')]
        names = [name for name in names if part != 'knn' or name.endswith('top1')]
        if names and names[0] not in (name for name, _ in found.values()):
            found[title] = names[0], run.validation[names[0]]
    return [(title, name, series) for title, (name, series) in found.items()]


def as_metric(name: str, value: float) -> str:
    return f'{value:.3f}' if name.startswith(FRACTIONS) else f'{value:.1f} %'


def fixed(name: str, value: float) -> str:
    """A metric with as many decimals as the others in its column."""
    return f'{value:.3f}' if name.startswith(FRACTIONS) else f'{value:.2f}'


def measured(name: str, series: Series) -> Series:
    """A metric without the -1 that COCO's evaluation reports if there are no objects of a size."""
    if not name.startswith(FRACTIONS):
        return series
    return series._replace(y=[None if y == -1 else y for y in series.y])


def key_figures(run: Run) -> list[tuple[str, str, str]]:
    """Title, value and remark of the numbers at the top."""
    figures = []
    for title, name, series in headline_metrics(run):
        values = [y for y in series.y if y is not None]
        if values:
            first = f'{as_metric(name, values[0])} at {run.validation_axis} {series.x[0]:g}' if len(values) > 1 else name
            figures.append((title, as_metric(name, values[-1]), first))
    loss, start = last(run.train.get('loss')), run.train.get('loss')
    if loss is not None and start:
        opening = next(y for y in start.y if y is not None)
        figures.append(('loss', f'{loss:.3f}', f'{opening:.3f} at iteration {start.x[0]:g}'))
    speed = median_speed(run)
    if speed is not None:
        figures.append(('images/s', f'{speed:,.0f}', 'median over the run'))
    return [*figures, ('time', duration(wall_seconds(run)), plural(len(run.sessions), 'session'))]


def plural(count: int, unit: str) -> str:
    return f'{count:,} {unit}{"" if count == 1 else "s"}'


def median_speed(run: Run) -> float | None:
    values = sorted(y for y in run.train['images_per_s'].y if y is not None) if 'images_per_s' in run.train else []
    return values[len(values) // 2] if values else None


def wall_seconds(run: Run) -> float:
    return sum(session.seconds for session in run.sessions)


def duration(seconds: float) -> str:
    """``0:02:11``; days are counted in hours."""
    whole = timedelta(seconds=round(seconds))
    hours, rest = divmod(int(whole.total_seconds()), 3600)
    return f'{hours}:{rest // 60:02d}:{rest % 60:02d}'


def time_shares(run: Run) -> list[tuple[str, float]]:
    """Seconds by what they were spent on, over all sessions; empty without the times of iterations.

    The log has the mean time of an iteration over a window; an iteration without a line counts as the next line.
    """
    whole = wall_seconds(run)
    steps, waiting = spent(run.train.get('time')), spent(run.train.get('data_time'))
    if not steps or not whole:
        return []
    pauses = sum(pause for session in run.sessions for pause in session.log.pauses)
    rest = max(0.0, whole - steps - pauses)
    return [
        ('forward, backward and optimizer', max(0.0, steps - waiting)),
        ('waiting for images', waiting),
        ('waiting for checkpoints', pauses),
        ('start, evaluations and everything else', rest),
    ]


def spent(series: Series | None) -> float:
    """Sum over iterations of a mean time that is logged every few iterations."""
    if series is None:
        return 0.0
    before = [0.0, *series.x[:-1]]
    return sum((x - b) * y for x, b, y in zip(series.x, before, series.y, strict=True) if y is not None)


def next_commands(run: Run) -> list[tuple[str, str]]:
    """What to do next, and the command for it."""
    if not run.checkpoints:
        return restart(run)
    checkpoint = str(run.checkpoints[0])
    if run.kind != 'pretraining':
        test = [('Evaluate the newest checkpoint', command('test', str(run.config_file or 'CONFIG'), checkpoint))]
        return [*([] if is_complete(run) else restart(run)), *test]
    train, val = data_folders(run)
    return [
        *([] if is_complete(run) else restart(run)),
        *([] if not run.unreadable and not run.skips else [('See which images are broken', broken_images(run))]),
        ('Look at its features', command('show', checkpoint, val, '--out', str(run.folder / 'pictures'))),
        ('Evaluate the teacher by k-NN', command('knn', checkpoint, '--train', train, '--val', val)),
        ('Evaluate it by a linear classifier', command('linear', checkpoint, '--train', train, '--val', val)),
        ('Evaluate frozen patches', command('dense', checkpoint, '--suite', 'folder=IMAGES_WITH_MASKS')),
        ('Export it for timm', command('export', checkpoint, str(run.folder / 'timm'), '--format', 'timm')),
        ('Share it; this only says what would be sent', command('push', checkpoint, 'USER/NAME', '--dry-run')),
    ]


def broken_images(run: Run) -> str:
    """The command that checks all images of the run."""
    return command('check-data', str(run.config_file or 'CONFIG'))


def restart(run: Run) -> list[tuple[str, str]]:
    config = str(run.config_file or 'CONFIG')
    resume = ['--resume'] if run.checkpoints else []
    title = 'Resume the run' if run.checkpoints else 'Start the run again'
    return [(title, command('train', config, *resume, '--work-dir', str(run.folder)))]


def command(*words: str) -> str:
    return shlex.join(['mmadclr', *words])


def data_folders(run: Run) -> tuple[str, str]:
    """Folders of labeled images of the config's validation; words to replace if it has none."""
    dataset: Any = nested(run.config, 'val_dataloader', 'dataset') or {}
    root, split = dataset.get('data_root'), dataset.get('split')
    bank: Any = nested(run.config, 'val_cfg', 'bank') or {}
    if not root:
        return 'LABELED_TRAIN_DIR', 'LABELED_VAL_DIR'
    if split:
        return str(Path(root, bank.get('split') or 'train')), str(Path(root, split))
    return str(bank.get('data_root') or root), str(root)
