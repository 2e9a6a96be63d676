"""Subsets of a labeled set: held-out images, and a few images per class.

Pure functions of labels and seed, so that all processes and tools select the same images.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def held_out(labels: np.ndarray, fraction: float, seed: int = 0) -> np.ndarray:
    """Boolean mask (N,) of images for choosing hyperparameters, True = held out of training.

    Args:
        labels: Class of each image (N,).
        fraction: Fraction of every class, rounded; at least one image of classes with two or more, and never all.
        seed: Selects the images.

    Raises:
        ValueError: ``fraction`` is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f'held-out fraction {fraction} must be between 0 and 1')
    mask = np.zeros(len(labels), dtype=bool)
    for _, members in _shuffled_classes(labels, seed):
        # At least one image, but never all; none for a class with a single image.
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        mask[members[:count]] = True
    return mask


def few_shot(labels: np.ndarray, shots: int, seed: int = 0) -> np.ndarray:
    """Ascending indices (classes * shots,) of ``shots`` images per class.

    For the same seed, larger subsets contain the smaller ones.

    Args:
        labels: Class of each image (N,).
        shots: Images per class.
        seed: Selects the images.

    Raises:
        ValueError: ``shots`` is below 1, or a class has fewer images.
    """
    if shots < 1:
        raise ValueError(f'shots={shots} must be at least 1')
    chosen: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
    for label, members in _shuffled_classes(labels, seed):
        if len(members) < shots:
            raise ValueError(f'shots={shots}: class {label} has only {len(members)} images; use at most that many shots')
        chosen.append(members[:shots])
    return np.sort(np.concatenate(chosen))


def _shuffled_classes(labels: np.ndarray, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """Every class with the indices of its images in random order."""
    labels = np.asarray(labels)
    order = np.random.default_rng(seed).permutation(len(labels))
    grouped = order[np.argsort(labels[order], kind='stable')]
    names, starts = np.unique(labels[grouped], return_index=True)
    yield from zip(names.tolist(), np.split(grouped, starts)[1:], strict=True)
