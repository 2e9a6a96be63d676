"""Checkpoints to and from layouts of other code bases: ``python tools/convert.py``, the same as ``mmadclr convert``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone that is not installed, too

from mmadclr.cli.main import run_tool

if __name__ == '__main__':
    run_tool('convert')
