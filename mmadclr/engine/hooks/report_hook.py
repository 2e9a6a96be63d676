"""Records how a run was started and how it ended, and writes a report when it ends."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook

from mmadclr import __version__
from mmadclr.files import atomic_path
from mmadclr.registry import HOOKS
from mmadclr.report.sessions import RECORD
from mmadclr.shipped import clone

GIT_S = 5  # a repository on a slow disk must not delay the run


@HOOKS.register_module()
class ReportHook(Hook):
    """Writes ``<work_dir>/report.html`` when training ends for any reason, unless the process is killed.

    At the start it writes ``<work_dir>/<time>/run.json``: command, version, commit and machine, which the report shows. Only
    the main process works, between training and its exit; a failure is one warning and nothing else.
    """

    priority = 'LOWEST'  # after the last checkpoint and the last words in the log

    @master_only
    def before_train(self, runner) -> None:
        self.path = Path(runner.log_dir, RECORD)
        self.record = start_record()
        self.save(runner)

    @master_only
    def leave_training(self, runner) -> None:
        """Completes the record and writes the report; called while the error that ends the run, if any, is passed on."""
        if not hasattr(self, 'record'):
            return  # the run failed before training
        self.record |= {'ended': time.strftime('%Y-%m-%d %H:%M:%S'), 'end': how_it_ends(sys.exc_info()[1])}
        self.save(runner)
        try:
            from mmadclr.report import write_report

            path, _ = write_report([runner.work_dir])
            runner.logger.info(f'report   {path}')
        except Exception as error:  # whatever it is, the run itself is done
            text = ' '.join(str(error).split())
            runner.logger.warning(f'no report written ({type(error).__name__}: {text}); mmadclr report {runner.work_dir}')

    def save(self, runner) -> None:
        try:
            with atomic_path(self.path) as temporary:
                temporary.write_text(json.dumps(self.record, indent=1) + '\n')
        except OSError as error:
            runner.logger.warning(f'{error}; the report will not know the command')


def start_record() -> dict[str, Any]:
    """How and where this process was started, in plain types."""
    program = Path(sys.argv[0])
    name = 'mmadclr' if program.name in ('mmadclr', '__main__.py') else str(program)
    record = dict(
        command=printable(shlex.join([name, *sys.argv[1:]])),
        version=__version__,
        machine=f'{platform.node()} ({platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores)',
        began=time.strftime('%Y-%m-%d %H:%M:%S'),
    )
    found = commit()
    return record if found is None else {**record, 'commit': found}


def printable(text: str) -> str:
    """Text without broken Unicode, which names of files may have."""
    return text.encode('utf-8', 'backslashreplace').decode()


def commit() -> str | None:
    """The commit of the clone that runs, with ``+ changes`` if files differ from it; None without git."""
    folder = clone()
    if folder is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        found = git(folder, 'rev-parse', 'HEAD')
        changed = git(folder, 'status', '--porcelain', '--untracked-files=no')
        return f'{found} + changes' if changed else found
    return None


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(['git', '-C', str(folder), *words], capture_output=True, text=True, timeout=GIT_S, check=True)
    return done.stdout.strip()


def how_it_ends(error: BaseException | None) -> str:
    """The end of a run in words, from the error that ends it."""
    if error is None:
        return 'completed'
    text = printable(' '.join(str(error).split()))
    return f'{type(error).__name__}: {text}' if text else type(error).__name__
