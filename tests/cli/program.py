"""The program in any folder: in an interpreter of its own where it starts in a fraction of a second."""

import os
import subprocess
import sys
from pathlib import Path

from places import REPO
from programs import python

SETTINGS = dict(PYTHONPATH=str(REPO), COLUMNS='80', OMP_NUM_THREADS='1')


def mmadclr(*arguments, cwd: Path = REPO, **environment: str) -> subprocess.CompletedProcess:
    """Runs ``python -m mmadclr`` of the clone, without a terminal."""
    command = [sys.executable, '-m', 'mmadclr', *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | SETTINGS | environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )


def mmadclr_with_libraries(*arguments, cwd: Path = REPO) -> subprocess.CompletedProcess:
    """The same where it needs torch and mmengine, which it finds imported."""
    return python('-m', 'mmadclr', *arguments, check=False, cwd=cwd, **SETTINGS)
