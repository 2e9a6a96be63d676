"""The program in an interpreter of its own, in any folder: for what starts in a fraction of a second."""

import os
import subprocess
import sys
from pathlib import Path

from places import REPO


def mmadclr(*arguments, cwd: Path = REPO, **environment: str) -> subprocess.CompletedProcess:
    """Runs ``python -m mmadclr`` of the clone, without a terminal."""
    command = [sys.executable, '-m', 'mmadclr', *map(str, arguments)]
    settings = dict(PYTHONPATH=str(REPO), COLUMNS='80', OMP_NUM_THREADS='1') | environment
    return subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )
