"""Parts of a labeled set: images held out of training, and a few of each class.

Pure functions of labels and seed, so that every process, and every tool, finds the same images.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def held_out(labels: np.ndarray, fraction: float, seed: int = 0) -> np.ndarray:
    """Boolean mask (N,) of images to choose hyper-parameters on, True = held out of training.

    Args:
        labels: Class of each image (N,).
        fraction: Share of every class, rounded; at least one image of a class that has two or more, and never all.
        seed: Which images they are.

    Raises:
        ValueError: A fraction that is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f'held-out fraction {fraction}: choose a share of the images between 0 and 1')
    mask = np.zeros(len(labels), dtype=bool)
    for _, members in _shuffled_classes(labels, seed):
        # One image or more, but never all; of a class of one image, none.
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        mask[members[:count]] = True
    return mask


def few_shot(labels: np.ndarray, shots: int, seed: int = 0) -> np.ndarray:
    """Ascending indices (classes * shots,) of ``shots`` images of each class.

    More shots of the same seed contain fewer.

    Args:
        labels: Class of each image (N,).
        shots: Images per class.
        seed: Which images they are.

    Raises:
        ValueError: Fewer than one shot, or a class with fewer images.
    """
    if shots < 1:
        raise ValueError(f'shots={shots}: choose at least one image per class')
    chosen: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
    for label, members in _shuffled_classes(labels, seed):
        if len(members) < shots:
            raise ValueError(f'shots={shots}: class {label} has only {len(members)} images; choose no more shots than that')
        chosen.append(members[:shots])
    return np.sort(np.concatenate(chosen))


def _shuffled_classes(labels: np.ndarray, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """Every class with the indices of its images in random order."""
    labels = np.asarray(labels)
    order = np.random.default_rng(seed).permutation(len(labels))
    grouped = order[np.argsort(labels[order], kind='stable')]
    names, starts = np.unique(labels[grouped], return_index=True)
    yield from zip(names.tolist(), np.split(grouped, starts)[1:], strict=True)
