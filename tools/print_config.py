"""Prints a config with the origin of each value: ``python tools/print_config.py``, the same as ``mmadclr print-config``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also runs from a clone that is not installed

from mmadclr.cli.main import run_tool

if __name__ == '__main__':
    run_tool('print-config')
