"""Which differences between methods are larger than chance: of seeds and, where it is known, of the evaluated images."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LEVEL = 0.95


def difference(
    ours: Sequence[float],
    theirs: Sequence[float],
    our_samples: Sequence[np.ndarray] | None = None,
    their_samples: Sequence[np.ndarray] | None = None,
    level: float = LEVEL,
) -> dict[str, float] | None:
    """Difference of the means of two methods over seeds, with an interval and a p-value.

    Welch's t-test over seeds. With samples, the variance over samples of the images of the same difference is added to that
    over seeds, so the result is about other seeds and other images.

    Args:
        ours, theirs: Values of the seeds.
        our_samples, their_samples: Of every seed, scores (draws,) of bootstrap samples of the images, paired by place.
        level: Confidence level.

    Returns:
        ``value``, ``low``, ``high`` and ``p_value``; None with fewer than two seeds, whose spread is not known.

    Raises:
        ImportError: scipy is not installed.
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    try:
        from scipy.stats import t
    except ImportError as error:
        raise ImportError("differences are tested with scipy: pip install 'mmadclr[evaluation]'") from error

    value = statistics.fmean(ours) - statistics.fmean(theirs)
    parts = [statistics.variance(values) / len(values) for values in (ours, theirs)]
    total = sum(parts) + variance_over_images(our_samples, their_samples)
    if total == 0:
        return dict(value=value, low=value, high=value, p_value=float(value == 0))
    freedom = degrees_of_freedom(total, parts, (len(ours), len(theirs)))
    half = float(t.ppf((1 + level) / 2, freedom)) * math.sqrt(total)
    p_value = float(2 * t.sf(abs(value) / math.sqrt(total), freedom))
    return dict(value=value, low=value - half, high=value + half, p_value=p_value)


def variance_over_images(ours: Sequence[np.ndarray] | None, theirs: Sequence[np.ndarray] | None) -> float:
    """Variance over bootstrap samples of the difference of the means over seeds; 0 without samples."""
    if ours is None or theirs is None:
        return 0.0
    return float(np.nanvar(np.mean(ours, axis=0) - np.mean(theirs, axis=0), ddof=1))


def degrees_of_freedom(total: float, parts: Sequence[float], counts: Sequence[int]) -> float:
    """Welch and Satterthwaite's number, for a variance with the parts of two methods; any other part counts as known."""
    spread = sum(part**2 / (count - 1) for part, count in zip(parts, counts, strict=True))
    return total**2 / spread if spread else math.inf


def add_differences(
    table: Mapping[str, dict[str, dict[str, Any]]], first: str, rows: Sequence[str], columns: Sequence[str], samples: Mapping
) -> None:
    """Adds ``difference`` to cells: from the row ``first``, which is another one.

    Args:
        table: Cells by row and column; see ``tabulate``.
        first, rows, columns: Names.
        samples: Scores of bootstrap samples by row, column and seed.

    Raises:
        ImportError: scipy is not installed.
    """
    for row in rows:
        for column, cell in table[row].items():
            if column in columns and column in table[first]:
                ours, theirs = (table[name][column]['values'] for name in (row, first))
                drawn, others = _of_seeds(samples, row, column, ours), _of_seeds(samples, first, column, theirs)
                cell['difference'] = difference([*ours.values()], [*theirs.values()], drawn, others)


def _of_seeds(samples: Mapping, row: str, column: str, values: Mapping) -> list[np.ndarray] | None:
    """Samples of all seeds that have a value; None if one has none."""
    found = [samples.get(row, {}).get(column, {}).get(seed) for seed in values]
    return None if any(each is None for each in found) else found
