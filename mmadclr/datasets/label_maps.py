"""Label maps, one class per pixel, stored as image files; also checks which classes occur.

A metric with fewer than two classes is meaningless: if masks contain 0 and 255 and 255 is ignored, one class is left,
and any prediction scores 100 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mmadclr.datasets.decoding import READ_ERRORS, said
from mmadclr.datasets.orientation import displayed_size, orientation_of

# Single-channel integers: bits, gray values of 8 to 32 bits, palette indices (not colors).
LABEL_MODES = ('1', 'L', 'P', 'I', 'I;16', 'I;16L', 'I;16B', 'I;16N')
IGNORED = -1
MAX_NAMED = 6


class LabelMapError(ValueError):
    """A file is not a valid label map of its image."""


def open_label_map(path: str | Path, image_name: str = '') -> Image.Image:
    """The label map in a file, loaded; its pixels are labels in one of ``LABEL_MODES``.

    Raises:
        LabelMapError: It cannot be read, or its pixels are ambiguous: colors, alpha, fractions, several
            pages, or an orientation tag that some readers apply and others ignore.
    """
    try:
        with Image.open(path) as image:
            pages = getattr(image, 'n_frames', 1)
            image.load()
    except READ_ERRORS as error:
        raise LabelMapError(f'mask {path}{image_name and f" of {image_name}"} cannot be read ({said(error)})') from error
    if pages > 1:
        raise LabelMapError(f'mask {path} has {pages} pages or frames; label maps must have one')
    if image.mode not in LABEL_MODES:
        raise LabelMapError(f'mask {path} {_unclear_pixels(image)}')
    if orientation_of(image) != 1:
        raise LabelMapError(
            f'mask {path} has EXIF orientation {orientation_of(image)}, which some mask readers apply and others '
            'ignore: rotate its pixels as displayed and save it without the tag'
        )
    return image


def _unclear_pixels(image: Image.Image) -> str:
    if image.mode == 'F':
        return 'contains floats; label maps contain integers: save it with 8 or 16 bits'
    return (
        f'has {len(image.getbands())} channels ({image.mode}); label maps have one, the class of each pixel: save it as '
        f'gray values or with a palette'
    )


def size_as_displayed(path: str | Path) -> tuple[int, int] | None:
    """(width, height) of an image file after EXIF rotation; None if it cannot be read."""
    try:
        with Image.open(path) as image:
            if image.format == 'PNG' and 'exif' not in image.info:
                image.load()  # the tag may come after the pixels
            return displayed_size(image.size, orientation_of(image))
    except READ_ERRORS:
        return None


def count_labels(labels: np.ndarray) -> dict[int, int]:
    """Pixels of every label that occurs in an integer array of any shape."""
    if labels.dtype in (np.uint8, np.uint16, np.bool_):
        counts = np.bincount(labels.ravel())
        values = counts.nonzero()[0]
        return dict(zip(values.tolist(), counts[values].tolist(), strict=True))
    values, counts = np.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def meanings(num_classes: int, ignore_index: int, reduce_zero_label: bool) -> dict[int, int]:
    """Maps labels in a file to classes, or ``IGNORED``."""
    shift = int(reduce_zero_label)
    classes = {label + shift: label for label in range(num_classes)}
    return {**classes, **({0: IGNORED} if reduce_zero_label else {}), ignore_index: IGNORED}


def classes_among(labels: Iterable[int], meaning: Mapping[int, int]) -> set[int]:
    """The classes of labels in a file."""
    return {meaning[label] for label in labels if meaning.get(label, IGNORED) != IGNORED}


def too_few_classes(counts: Mapping[int, int], meaning: Mapping[int, int], where: str) -> str | None:
    """Error message if masks with these pixel counts have fewer than two classes, with the fix; None otherwise.

    Args:
        counts: Pixels of every label, over all masks of a set.
        meaning: See :func:`meanings`.
        where: Name of the masks in messages.
    """
    present = classes_among(counts, meaning)
    if len(present) > 1:
        return None
    total = max(1, sum(counts.values()))
    most = sorted(counts, key=lambda label: counts[label], reverse=True)[:MAX_NAMED]
    shares = [f'{label} ({100 * counts[label] / total:.3g} %)' for label in sorted(most)]
    held = ' and '.join(filter(None, (', '.join(shares[:-1]), shares[-1])))
    ignored = sorted(label for label in counts if meaning.get(label) == IGNORED)
    why = f'{" and ".join(map(str, ignored))} {"is" if len(ignored) == 1 else "are"} ignored here, ' if ignored else ''
    left = f'only class {min(present)} is left' if present else 'no class is left'
    return (
        f'{where}: masks contain {held}: {why}{left}, so there is nothing to learn and any score is 100 %. '
        f'{_way_out(ignored, meaning)}'
    )


def _way_out(ignored: Sequence[int], meaning: Mapping[int, int]) -> str:
    labels = sorted(label for label, name in meaning.items() if name != IGNORED)
    written = f'rewrite the masks to the labels {labels[0]} to {labels[-1]}' if labels else 'rewrite the masks'
    if 0 in ignored and meaning.get(1) == 0:
        return f'Remove reduce_zero_label if 0 is a class, or {written}'
    if ignored and len(labels) == 1:
        return f'If {ignored[-1]} is a class, rewrite the masks with {labels[0] + 1} in its place'
    if ignored:
        return f'If {ignored[-1]} is a class, {written} (or set ignore_index to an unused label)'
    return f'{written[0].upper()}{written[1:]}, with one for every class, or correct the number of classes'


def absent_classes(present: set[int], names: Sequence[str], where: str, seen: str) -> str | None:
    """A remark about classes that do not occur; ``seen``: description of the checked masks."""
    absent = [f'{label} ({name})' for label, name in enumerate(names) if label not in present]
    if not absent:
        return None
    more = f' and {len(absent) - MAX_NAMED} more' if len(absent) > MAX_NAMED else ''
    return (
        f'{where}: {len(absent)} of {len(names)} classes do not occur in {seen}: {", ".join(absent[:MAX_NAMED])}{more}; '
        'they cannot be learned or evaluated'
    )
