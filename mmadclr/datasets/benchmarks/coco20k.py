"""COCO20k: boxes of 20,000 images of COCO 2014, as used for unsupervised object discovery.

Vo et al., *Toward unsupervised, multi-object discovery in large-scale image collections*, ECCV 2020; boxes as in
valeoai/LOST, ``datasets.py``.
"""

from __future__ import annotations

from array import array
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import torch

from mmadclr.datasets.benchmarks.json_records import json_records
from mmadclr.datasets.benchmarks.layouts import Guide, existing, locate
from mmadclr.datasets.benchmarks.listing import Lazy, files_by_name, listed_names, require, some_of
from mmadclr.datasets.benchmarks.types import BoxBenchmark, BoxedImage
from mmadclr.datasets.coco_checks import is_number

IMAGES = 'images/train2014|train2014'
FILE = 'annotations/instances_train2014.json|instances_train2014.json'
LIST = 'coco_20k_filenames.txt|annotations/coco_20k_filenames.txt|datasets/coco_20k_filenames.txt|../coco_20k_filenames.txt'
GUIDE = Guide(
    ('.', 'COCO', 'coco', 'coco2014'),
    {'2014': (IMAGES, FILE, LIST)},
    'images/train2014, annotations/instances_train2014.json, coco_20k_filenames.txt',
    'cocodataset.org (train2014.zip, annotations_trainval2014.zip) and datasets/coco_20k_filenames.txt of '
    'github.com/valeoai/LOST',
)


class Boxes(NamedTuple):
    """``starts``: first box by name of the image, and one past the last. ``sides``: 4 for each box."""

    starts: dict[str, tuple[int, int]]
    sides: array


class BoxReader:
    """Reads images with their boxes. The annotation file is read once, with the first image, and only the boxes of listed
    images are kept.

    Args:
        path: Annotation file.
        images: Path by name, for all listed images.
    """

    def __init__(self, path: str, images: dict[str, str]) -> None:
        self.path, self.images = path, images
        self._boxes: Boxes | None = None

    def __call__(self, name: str) -> BoxedImage:
        """The annotated objects of an image without crowds; none is difficult or truncated.

        Raises:
            ValueError: The file is broken, a record lacks a key, or listed images are missing in it.
        """
        if self._boxes is None:
            self._boxes = read_boxes(self.path, self.images)
        start, end = self._boxes.starts[name]
        boxes = torch.tensor(self._boxes.sides[4 * start : 4 * end], dtype=torch.int64).reshape(-1, 4)
        unmarked = torch.zeros(len(boxes), dtype=torch.bool)
        return BoxedImage(name, self.images[name], boxes, unmarked, unmarked.clone())


def open_coco20k(root: str) -> BoxBenchmark:
    """COCO20k, in the order of the list.

    Raises:
        LayoutError: Parts are missing.
        FileNotFoundError: Listed images are missing.
    """
    base = locate('coco20k', root, GUIDE).base
    images, path, file_list = (existing(base, part) or base for part in (IMAGES, FILE, LIST))
    names = [PurePosixPath(line).stem for line in listed_names(file_list)]
    found = files_by_name(images)
    require(names, found, 'image', images, file_list)
    return BoxBenchmark('coco20k', Lazy(names, BoxReader(str(path), {name: found[name] for name in names})))


def read_boxes(path: str, names: dict[str, str]) -> Boxes:
    """Boxes of the listed images, in the order of the file.

    Raises:
        ValueError: See :class:`BoxReader`.
    """
    ids: dict[int, str] = {}
    kept: dict[int, list[tuple[int, ...]]] = {}
    for part, record in json_records(path, ('images', 'annotations')):
        try:
            if part == 'images':
                ids[record['id']] = PurePosixPath(record['file_name']).stem
            elif not record.get('iscrowd') and (record['image_id'] not in ids or ids[record['image_id']] in names):
                kept.setdefault(record['image_id'], []).append(_corners(record['bbox']))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f'{path}: broken record in {part}: {str(record)[:100]} ({error!r})') from error
    numbers = {name: image for image, name in ids.items() if name in names}
    absent = [name for name in names if name not in numbers]
    if absent:
        raise ValueError(f'{path}: {len(absent)} of {len(names)} listed images are not in it: {some_of(absent)}')
    return _packed({name: kept.get(numbers[name], []) for name in names})


def _packed(boxes: dict[str, list[tuple[int, ...]]]) -> Boxes:
    starts, sides = {}, array('i')
    for name, some in boxes.items():
        start = len(sides) // 4
        sides.extend(side for box in some for side in box)
        starts[name] = (start, len(sides) // 4)
    return Boxes(starts, sides)


def _corners(box: Any) -> tuple[int, int, int, int]:
    """x, y, width, height -> rounded corners; at least one pixel wide, since no box without area can be hit either."""
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)) or min(box[2:]) < 0:
        raise ValueError(f'bbox {box} must be x, y, width, height')
    left, top, right, bottom = (round(side) for side in (box[0], box[1], box[0] + box[2], box[1] + box[3]))
    return left, top, max(right, left + 1), max(bottom, top + 1)
