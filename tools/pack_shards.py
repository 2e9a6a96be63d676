"""Packs a folder of images into tar shards: ``python tools/pack_shards.py``, the same as ``mmadclr pack``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also runs from a clone that is not installed

from mmadclr.cli.main import run_tool

if __name__ == '__main__':
    run_tool('pack')
