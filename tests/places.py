"""Where tests find things."""

from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
DATA = REPO / 'tests' / 'data'
GOLDEN = DATA / 'golden'
# Small real data sets beside the project; tests that use them skip where they are absent.
REAL_DATA = REPO.parent / 'shared' / 'real-mini'
# Files as the published code writes them.
GOLDEN_CHECKPOINTS = GOLDEN / 'checkpoints'
