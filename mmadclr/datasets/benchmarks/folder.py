"""Any folder of images with label maps of the same names."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from mmengine.logging import print_log

from mmadclr.datasets.benchmarks.labels import LabelReader, identity, stored_labels
from mmadclr.datasets.benchmarks.layouts import Guide, LayoutError, existing, locate, missing_parts
from mmadclr.datasets.benchmarks.listing import listed_names, paired_folders, require
from mmadclr.datasets.benchmarks.types import VOID, LabeledImage, SegmentationBenchmark
from mmadclr.datasets.label_maps import IGNORED, LabelMapError, count_labels, too_few_classes
from mmadclr.datasets.walking import EXTENSIONS
from mmadclr.names import printable, read_lines

IMAGES, MASKS = 'images|img_dir', 'masks|ann_dir|annotations|labels'
SPLITS = {'train': 'train|training', 'val': 'val|validation'}
BACKGROUNDS = ('background', 'bg', '_background_')
# Without lists, one image in this many is for validation.
FIFTH = 5
GUIDE = Guide(
    ('.',),
    {'flat': (IMAGES, MASKS), 'outside': ('train|training', 'val|validation')},
    'images/{train,val}, masks/{train,val}, or {train,val}/images, {train,val}/masks, or images, masks with train.txt and '
    'val.txt; optionally classes.txt, one name per line, in the order of labels',
    'your own images; masks have one channel with the labels 0, 1, ..., and 255 where ignored',
)


class _Split(NamedTuple):
    train: list[LabeledImage]
    val: list[LabeledImage]


def open_folder(root: str) -> SegmentationBenchmark:
    """Images and masks of a folder, at any depth, paired by relative name.

    Layouts: split below (``images/train``) or above (``train/images``) the kind, or no split: ``train.txt`` and ``val.txt``
    then list names; without them every fifth image in the order of names is for validation, which is logged. Names of
    classes are the lines of ``classes.txt``; without it all masks are read once to find the labels. Class 0 is background
    if it is called so.

    Raises:
        LayoutError: Parts are missing.
        FileNotFoundError: An image without mask or the reverse; listed names without images.
        ValueError: Fewer than two classes or more than 255, or names that occur twice; see also ``stored_labels``.
    """
    where = locate('folder', root, GUIDE)
    split = _outside(where.base) if where.layout == 'outside' else _flat_or_inside(where.base)
    classes = _named_classes(where.base / 'classes.txt') or _found_classes(split, where.base)
    background = 0 if classes[0].lower() in BACKGROUNDS else None
    return SegmentationBenchmark('folder', classes, *split, _reader(classes), background)


def _reader(classes: Sequence[str]) -> LabelReader:
    hint = f'there are {len(classes)} classes, 0 to {len(classes) - 1}, and 255 is ignored'
    return LabelReader(identity(len(classes)), hint)


# --- files -----------------------------------------------------------------------------------------------------------------


def _outside(base: Path) -> _Split:
    folders = [existing(base, part) or base for part in SPLITS.values()]
    missing = [f'{folder.name}/{part}' for folder in folders for part in (IMAGES, MASKS) if existing(folder, part) is None]
    if missing:
        raise missing_parts('folder', base, [part.replace('|', f'|{part.partition("/")[0]}/') for part in missing], GUIDE)
    return _Split(*(_paired(*(existing(folder, part) or base for part in (IMAGES, MASKS))) for folder in folders))


def _flat_or_inside(base: Path) -> _Split:
    images, masks = (existing(base, part) or base for part in (IMAGES, MASKS))
    parts = {(kind, name): existing(kind, part) for name, part in SPLITS.items() for kind in (images, masks)}
    if not any(parts.values()):
        return _flat(base, images, masks)
    missing = [f'{kind.name}/{name}' for (kind, name), found in parts.items() if found is None]
    if missing:
        raise missing_parts('folder', base, missing, GUIDE)
    return _Split(*(_paired(*(parts[kind, name] or base for kind in (images, masks))) for name in SPLITS))


def _paired(images: Path, masks: Path) -> list[LabeledImage]:
    return paired_folders(images, masks, deep=True)


def _flat(base: Path, images: Path, masks: Path) -> _Split:
    items = _paired(images, masks)
    lists = [base / f'{name}.txt' for name in SPLITS]
    present = [path for path in lists if path.exists()]
    if len(present) == 1:
        absent = next(path.name for path in lists if path not in present)
        raise LayoutError(f'folder: {printable(base)} has {present[0].name}, but no {absent}')
    return _Split(*(_listed(path, items, images) for path in lists)) if present else _fifths(items, base)


def _listed(path: Path, items: list[LabeledImage], images: Path) -> list[LabeledImage]:
    by_name = {item.name: item for item in items}
    names = [_without_extension(name) for name in listed_names(path)]
    require(names, {item.name: item.image for item in items}, 'image', images, path)
    return [by_name[name] for name in names]


def _without_extension(name: str) -> str:
    stem, dot, extension = name.rpartition('.')
    return stem if dot and f'.{extension.lower()}' in EXTENSIONS else name


def _fifths(items: list[LabeledImage], base: Path) -> _Split:
    if len(items) < 2:
        raise FileNotFoundError(f'folder: {printable(base)} has one image: there must be at least 2')
    last = len(items) - 1 if len(items) < FIFTH else None
    val = [item for number, item in enumerate(items) if number % FIFTH == FIFTH - 1 or number == last]
    train = [item for number, item in enumerate(items) if number % FIFTH != FIFTH - 1 and number != last]
    message = f'folder: {printable(base)} is not split: every fifth image is for validation, {len(val)} of {len(items)}'
    print_log(f'{message}; other splits: train.txt and val.txt', 'current', logging.WARNING)
    return _Split(train, val)


# --- classes ---------------------------------------------------------------------------------------------------------------


def _named_classes(path: Path) -> tuple[str, ...]:
    """Of ``classes.txt``; empty if there is none."""
    if not path.exists():
        return ()
    names = tuple(line for _, line in read_lines(path))
    double = [name for name, count in Counter(names).items() if count > 1]
    if double:
        raise ValueError(f'{printable(path)} names {", ".join(double)} twice')
    if not 2 <= len(names) <= VOID:
        raise ValueError(f'{printable(path)} names {len(names)} classes: there must be 2 to {VOID}, since {VOID} is ignored')
    return names


def _found_classes(split: _Split, base: Path) -> tuple[str, ...]:
    """Names of the labels 0 to the largest one in all masks."""
    counts: Counter = Counter()
    for item in chain(*split):
        found = count_labels(stored_labels(item.mask, item.image))
        if min(found) < 0 or max(found) > VOID:
            raise LabelMapError(f'mask {printable(item.mask)} has the labels {min(found)} to {max(found)}: must be 0 to 255')
        counts.update(found)
    largest = max((label for label in counts if label != VOID), default=-1)
    meaning = {**{label: label for label in range(largest + 1)}, VOID: IGNORED}
    problem = too_few_classes(counts, meaning, f'folder {printable(base)}')
    if problem:
        raise ValueError(problem)
    return tuple(f'class {label}' for label in range(largest + 1))
