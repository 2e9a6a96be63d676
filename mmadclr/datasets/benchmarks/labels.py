"""Reads label maps of benchmarks as classes: 0 to C - 1, and 255 where ignored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmadclr.datasets.benchmarks.types import VOID, LabeledImage, SegmentationBenchmark
from mmadclr.datasets.decoding import size_by_header
from mmadclr.datasets.deep_formats import PNG_SIGNATURE
from mmadclr.datasets.label_maps import LabelMapError, open_label_map, size_as_displayed
from mmadclr.names import printable

UNKNOWN = -1


class LabelReader:
    """Reads the label maps of a data set.

    Args:
        meaning: Class of each label in the files, or 255; other labels are errors.
        hint: Added to the message about other labels: what may be wrong.
    """

    def __init__(self, meaning: Mapping[int, int], hint: str = '') -> None:
        self.table = lookup(meaning)
        self.hint = hint

    def __call__(self, item: LabeledImage) -> np.ndarray:
        """(H, W) uint8 classes, 255 where ignored.

        Raises:
            ValueError: The mask cannot be read, differs in size from its image, or has an unknown label.
        """
        return relabel(stored_labels(item.mask, item.image), self.table, item.mask, self.hint)


def lookup(meaning: Mapping[int, int]) -> np.ndarray:
    """(256,) int16 class of every label, -1 if unknown."""
    table = np.full(256, UNKNOWN, dtype=np.int16)
    table[list(meaning)] = list(meaning.values())
    return table


def relabel(labels: np.ndarray, table: np.ndarray, path: str, hint: str = '') -> np.ndarray:
    """(...) uint8 classes of labels (...) of any integer type.

    Raises:
        LabelMapError: A label has no class in ``table`` (see :func:`lookup`); names it and the file.
    """
    inside = labels if labels.dtype == np.uint8 else np.where((labels >= 0) & (labels < len(table)), labels, 0)
    classes = table[inside]
    unknown = classes < 0 if inside is labels else (classes < 0) | (inside != labels)
    if unknown.any():
        values, counts = np.unique(labels[unknown], return_counts=True)
        more = f' (and {len(values) - 1} others)' if len(values) > 1 else ''
        text = f'mask {printable(path)}: {counts[0]} pixels have the label {values[0]}{more}, neither a class nor void'
        raise LabelMapError(f'{text}: {hint}' if hint else text)
    return classes.astype(np.uint8)


def stored_labels(mask: str, image: str) -> np.ndarray:
    """(H, W) labels as stored in a file.

    Raises:
        LabelMapError: It cannot be read, is not a label map, or differs in size from its image.
    """
    labels = np.array(open_label_map(mask, printable(image)))
    check_size(mask, (labels.shape[1], labels.shape[0]), image)
    return labels.astype(np.uint8) if labels.dtype == np.bool_ else labels


def check_size(mask: str, size: tuple[int, int], image: str) -> None:
    """Checks that a mask has the width and height of its image.

    Raises:
        LabelMapError: It has another, or the image cannot be read.
    """
    shown = displayed_size_of(image)
    if shown is None:
        raise LabelMapError(f'image {printable(image)} of mask {printable(mask)} cannot be read')
    if shown != size:
        raise LabelMapError(
            f'mask {printable(mask)} has {size[0]}x{size[1]} pixels, but its image {printable(image)} has '
            f'{shown[0]}x{shown[1]} as displayed'
        )


def displayed_size_of(path: str) -> tuple[int, int] | None:
    """(width, height) of an image as displayed, None if it cannot be read; PNG files are not decoded."""
    try:
        data = Path(path).read_bytes()
    except OSError:
        return None
    plain = data[:8] == PNG_SIGNATURE and b'eXIf' not in data
    return size_by_header(data) if plain else size_as_displayed(path)


class AbsentClasses(NamedTuple):
    """Names of the classes without any pixel in the masks of a split."""

    train: tuple[str, ...]
    val: tuple[str, ...]


def absent_classes(benchmark: SegmentationBenchmark) -> AbsentClasses:
    """The classes that do not occur in the training or validation masks. Reads all masks, one at a time.

    Raises:
        ValueError: See ``read_labels``.
    """
    absent = []
    for items in (benchmark.train, benchmark.val):
        counts = np.zeros(256, dtype=np.int64)
        for item in items:
            counts += np.bincount(benchmark.read_labels(item).ravel(), minlength=256)
        absent.append(tuple(name for label, name in enumerate(benchmark.classes) if not counts[label]))
    return AbsentClasses(*absent)


def identity(num_classes: int) -> dict[int, int]:
    """Meaning of labels that are classes already, with 255 ignored."""
    return {**{label: label for label in range(num_classes)}, VOID: VOID}
