"""Show how runs are doing: progress, time left, curves, newest files.

In a terminal, the view is renewed until all runs have ended or Ctrl-C. It reads the files in the work dirs alone, so runs
may be on other machines that share them.
"""

from __future__ import annotations

import ast
import math
import os
import re
import shutil
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from mmadclr.cli.argument_types import positive
from mmadclr.report.scalars import TRAIN, VALIDATION, Series, joined, series
from mmadclr.report.sessions import of_current_run, read_session, recorded_end, session_folders

USAGE = 'WORK_DIR... [options]'
EXAMPLE = 'work_dirs/vits16_folder work_dirs/vits16_small --every 10'
BARS, PLAIN_BARS = '\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588', '_.-=+*%#'
CLEAR = '\x1b[H\x1b[2J'
RECENT = 5  # records whose mean is the speed
MAX_METRICS = 4
# A line of the log about training: the epoch and the iteration in it, or the iteration of all.
BY_EPOCH = re.compile(r'Epoch\(train\)\s+\[\s*\d+\]\[\s*\d+/(\d+)\]')
BY_ITERATION = re.compile(r'Iter\(train\)\s+\[\s*\d+/(\d+)\]')
LOSSES = re.compile(r'^loss(_\w+)?$')
NOT_METRICS = re.compile(r'^(?:monitor/|step$|iter$|epoch$|time$|data_time$)|/step$')


class Run(NamedTuple):
    """What the files of a run say.

    ``train``: records of training, one for each line of the log, by iteration. ``metrics``: values by name, in the order of
    validations. ``total``: iterations, and ``epochs``, if known. ``ended``: whether training came to its end. ``stopped``:
    why it ended before, as it has recorded it; None if it may be running. ``message``: the last warning or error.
    ``written``: time of the last change; None before the first. ``files``: newest checkpoint and picture by kind.
    """

    folder: Path
    train: list[dict[str, Any]]
    metrics: dict[str, list[float]]
    total: int | None
    epochs: int | None
    ended: bool
    stopped: str | None
    message: str | None
    written: float | None
    files: dict[str, str]

    @property
    def done(self) -> int:
        if self.ended and self.total:
            return self.total  # the log may leave out the last iterations of an epoch
        return int(self.train[-1]['iter']) if self.train else 0

    @property
    def is_finished(self) -> bool:
        return self.ended or (self.total is not None and self.done >= self.total)

    @property
    def is_over(self) -> bool:
        return self.is_finished or self.stopped is not None


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='folders of runs')
    parser.add_argument(
        '--every', type=positive, metavar='N', default=5, help='seconds until the view is renewed (default: 5)'
    )
    parser.add_argument('--once', action='store_true', help='print the view once, as without a terminal')


def run(args: Namespace, parser: ArgumentParser) -> None:
    """Prints the view of all runs, again and again in a terminal."""
    folders = [Path(text) for text in args.work_dirs]
    for folder in folders:
        if not folder.is_dir() or not session_folders(folder):
            parser.error(f'{folder} is not a work dir of a run: it has no folder <time> with a log')
    while True:
        runs = [read_run(folder) for folder in folders]
        again = sys.stdout.isatty() and not args.once and not all(each.is_over for each in runs)
        print((CLEAR if again else '') + '\n\n'.join(view(each, time.time(), *terminal()) for each in runs), flush=True)
        if not again:
            return
        try:
            time.sleep(args.every)
        except KeyboardInterrupt:  # the way to end it
            return


def terminal() -> tuple[int, str]:
    """Columns, and the characters of curves that the output can show."""
    try:
        BARS.encode(sys.stdout.encoding or 'ascii')
    except UnicodeEncodeError:
        return shutil.get_terminal_size().columns, PLAIN_BARS
    return shutil.get_terminal_size().columns, BARS


# --- files -----------------------------------------------------------------------------------------------------------------


def read_run(folder: Path) -> Run:
    """Reads the files of a run; lines that are being written are left for later."""
    found = [read_session(path)[0] for path in session_folders(folder)]
    current = of_current_run(found) or found
    records = joined([session.records for session in current], [session.start for session in current])
    train = [dict(record.values) for record in records if record.kind == TRAIN and 'iter' in record.values]
    metrics = {name: values_of(one) for name, one in series(records, VALIDATION).items() if not NOT_METRICS.search(name)}
    last = current[-1]
    text = ''.join(path.read_text(errors='replace') for path in sorted(last.folder.glob('*.log'))[:1])
    total, epochs = length(text, last.folder / 'vis_data' / 'config.py')
    stopped = None if last.log.done else recorded_end(last)
    message = last.log.warnings[-1].text if last.log.warnings else None
    written = None if last.written is None else last.written.timestamp()
    return Run(folder, train, metrics, total, epochs, last.log.done, stopped, message, written, newest_files(folder))


def values_of(one: Series) -> list[float]:
    """Values of a metric; one that was not finite is NaN."""
    return [math.nan if value is None else value for value in one.y]


def length(log: str, config: Path) -> tuple[int | None, int | None]:
    """Iterations and epochs in all, if known."""
    epochs = setting(config, 'train_cfg', 'max_epochs')
    in_epoch, in_all = BY_EPOCH.findall(log), BY_ITERATION.findall(log)
    return int(in_all[-1]) if in_all else epochs * int(in_epoch[-1]) if epochs and in_epoch else None, epochs


def setting(config: Path, part: str, key: str) -> int | None:
    """An integer in a dict of a config as runs write it, without running it."""
    try:
        tree = ast.parse(config.read_text())
    except (OSError, SyntaxError, ValueError):
        return None
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and ast.unparse(node.targets[0]) == part:
            found = {word.arg: word.value for word in node.value.keywords}.get(key)
            if isinstance(found, ast.Constant) and isinstance(found.value, int):
                return found.value
    return None


def newest_files(folder: Path) -> dict[str, str]:
    """The newest checkpoint and picture, relative to the folder."""
    found = {}
    for kind, pattern in (('checkpoint', '*.pth'), ('picture', '**/*.png')):
        newest = max(folder.glob(pattern), key=written_at, default=None)
        if newest is not None:
            found[kind] = os.fspath(newest.relative_to(folder))
    return found


def written_at(path: Path) -> float:
    """Time of the last change; 0 of a file that the run has removed in the meantime."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


# --- view ------------------------------------------------------------------------------------------------------------------


def view(each: Run, now: float, columns: int, bars: str = BARS) -> str:
    """Some lines of at most ``columns`` characters about a run at a time."""
    lines = [os.fspath(each.folder), *wrapped(progress(each), columns)]
    names = [name for name in (each.train[-1] if each.train else {}) if LOSSES.match(name)]
    curves = {name: [float(record[name]) for record in each.train if name in record] for name in names}
    curves |= dict(list(each.metrics.items())[:MAX_METRICS])
    lines += [curve(name, values, columns, bars) for name, values in curves.items()]
    lines += [f'{kind} {name}' for kind, name in each.files.items()]
    lines.append(state(each, now))
    if each.message and not each.is_over:
        lines.append(f'last message: {each.message}')
    return '\n'.join(shortened(line, columns) for line in lines)


def state(each: Run, now: float) -> str:
    """Whether it is over, how, and otherwise when it last wrote something."""
    if each.is_finished:
        return 'finished'
    if each.stopped is not None:
        return f'not running: {each.stopped}'
    if each.written is None:
        return 'nothing written yet'
    return f'last written {timedelta(seconds=int(max(0, now - each.written)))} ago'


def progress(each: Run) -> list[str]:
    """Share, epoch, iteration, time left, speed and memory, as far as they are known."""
    if not each.train:
        return ['nothing logged yet']
    last, recent = each.train[-1], [record for record in each.train[-RECENT:] if 'time' in record]
    fields = [f'{each.done / each.total:.0%}'] if each.total else []
    if 'epoch' in last and each.epochs:
        fields.append(f'epoch {last["epoch"]:.0f}/{each.epochs}')
    fields.append(f'iteration {each.done:,}' + (f'/{each.total:,}' if each.total else ''))
    if each.total and recent and not each.is_over:
        seconds = sum(record['time'] for record in recent) / len(recent) * (each.total - each.done)
        fields.append(f'{timedelta(seconds=int(seconds))} left')
    if 'images_per_s' in last:
        fields.append(f'{last["images_per_s"]:,.0f} images/s')
    if 'memory' in last:
        fields.append(f'{last["memory"] / 1024:.1f} GiB of GPU memory')
    return fields


def wrapped(fields: Sequence[str], columns: int) -> list[str]:
    """Fields in as few lines as they need."""
    lines = ['']
    for field in fields:
        longer = f'{lines[-1]}  {field}' if lines[-1] else field
        lines = [*lines[:-1], longer] if len(longer) <= columns else [*lines, field]
    return [line for line in lines if line]


def curve(name: str, values: Sequence[float], columns: int, bars: str = BARS) -> str:
    """A line with a name, the last value, and how the values went."""
    room = 12 if columns < 60 else 20
    head = f'{without_middle(name, room):<{room}} {values[-1]:>9.4g} '
    return head + sparkline(values, columns - len(head), bars)


def sparkline(values: Sequence[float], width: int, bars: str = BARS) -> str:
    """Values as bars from the smallest to the largest, means where there are more than ``width``; ``!`` is not finite."""
    count = max(1, min(width, len(values)))
    bounds = [i * len(values) // count for i in range(count + 1)]
    parts = [values[start:end] for start, end in pairwise(bounds)]
    means = [sum(part) / len(part) for part in parts]
    finite = [mean for mean in means if abs(mean) < float('inf')]
    low, span = (min(finite), max(finite) - min(finite)) if finite else (0.0, 0.0)
    return ''.join(
        bars[int((mean - low) / span * (len(bars) - 1) + 0.5) if span else 0] if abs(mean) < float('inf') else '!'
        for mean in means
    )


def shortened(text: str, columns: int) -> str:
    """A text in one line, without its end if it is too long."""
    return text if len(text) <= columns else f'{text[: max(1, columns - 3)]}...'


def without_middle(name: str, columns: int) -> str:
    """A name without its middle if it is too long: names of metrics often differ in their ends alone."""
    end = (columns - 3) // 2 + 1
    return name if len(name) <= columns else f'{name[: columns - 3 - end]}...{name[-end:]}'
