"""DINO's schedules as tables: one value per optimizer step or epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np


def cosine_schedule(start: float, end: float, total: int, warmup: int = 0, warmup_start: float = 0.0) -> np.ndarray:
    """(total,) float64: linear from ``warmup_start`` to ``start``, both included, then half a cosine down to ``end``.

    The cosine stops one step before ``end``, as in facebookresearch/dino, ``utils.py: cosine_scheduler``.

    Raises:
        ValueError: The warm-up is longer than the schedule.
    """
    if not 0 <= warmup <= total:
        raise ValueError(f'warm-up of {warmup} steps is longer than the schedule of {total} steps; lower warmup_epochs')
    line = np.linspace(warmup_start, start, warmup)
    steps = np.arange(total - warmup)
    cosine = end + 0.5 * (start - end) * (1 + np.cos(np.pi * steps / max(len(steps), 1)))
    return np.concatenate((line, cosine))


def linear_warmup(start: float, end: float, total: int, warmup: int) -> np.ndarray:
    """(total,) float64: ``warmup`` values from ``start`` to ``end``, both included, then ``end``.

    As the teacher temperature in facebookresearch/dino, ``main_dino.py: DINOLoss``; a warm-up longer than the schedule
    is truncated, not compressed.
    """
    return np.concatenate((np.linspace(start, end, warmup), np.full(max(total - warmup, 0), end)))[:total]


def held_cosine(start: float, end: float, progress: float, hold: float) -> float:
    """``start`` for a fraction ``hold`` of the run, then half a cosine to ``end``; ``progress`` is in [0, 1]."""
    falling = max(progress - hold, 0.0) / (1 - hold)
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(falling, 1.0)))


def temperature_table(total: int, temp: tuple[float, float], warmup_epochs: int, start_epoch: int) -> np.ndarray:
    """(total,) temperatures by epoch: the first until ``start_epoch``, then a linear warm-up to the second, which is held.

    As in bytedance/ibot, ``main_ibot.py: iBOTLoss``.
    """
    return np.concatenate((np.full(start_epoch, temp[0]), linear_warmup(*temp, total, warmup_epochs)))[:total]


def check_temperature(key: str, settings: Mapping) -> None:
    """Raises ValueError if ``settings`` is not a valid temperature schedule."""
    unknown = settings.keys() - {'temp', 'warmup_epochs', 'start_epoch'}
    if unknown:
        raise ValueError(f'{key}: unknown {", ".join(sorted(unknown))}; accepted: temp, warmup_epochs, start_epoch')
    if len(settings['temp']) != 2 or not all(value > 0 for value in settings['temp']):
        raise ValueError(f'{key}={tuple(settings["temp"])}: both ends must be positive')
    if settings['start_epoch'] < 0:
        raise ValueError(f'{key}: start_epoch={settings["start_epoch"]} must not be negative')
