"""Reads panoptic masks: PNG files whose colors are segment ids, with the categories of segments in a JSON file."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mmadclr.datasets.benchmarks.json_records import json_records
from mmadclr.datasets.benchmarks.labels import check_size, lookup, relabel
from mmadclr.datasets.benchmarks.types import LabeledImage
from mmadclr.datasets.decoding import READ_ERRORS, said
from mmadclr.datasets.label_maps import LabelMapError
from mmadclr.names import printable


class SegmentIndex(NamedTuple):
    """Segments of all images of a file. ``images``: number by name of the mask, without extension. ``starts``: first segment
    of each image, and the total. ``ids``, ``categories``: of segments.
    """

    images: dict[str, int]
    starts: array
    ids: array
    categories: array

    def of(self, name: str) -> tuple[list[int], list[int]]:
        """Ids and categories of the segments of an image, by id."""
        number = self.images[name]
        part = slice(self.starts[number], self.starts[number + 1])
        return list(self.ids[part]), list(self.categories[part])


class PanopticReader:
    """Reads panoptic masks as classes.

    The JSON file of a split is read once, with its first mask; about 10 bytes per segment are kept.

    Args:
        files: Folder of masks -> JSON file.
        meaning: Class of each category id, or 255; of 0, pixels of no segment.
    """

    def __init__(self, files: Mapping[str, str], meaning: Mapping[int, int]) -> None:
        self.files, self.table = dict(files), lookup(meaning)
        self._indices: dict[str, SegmentIndex] = {}

    def __call__(self, item: LabeledImage) -> np.ndarray:
        """(H, W) uint8 classes, 255 where ignored.

        Raises:
            ValueError: The mask cannot be read or differs in size from its image; the JSON file is broken, or does not list
                the mask, one of its segments, or a category.
        """
        folder, name = str(Path(item.mask).parent), Path(item.mask).stem
        if folder not in self._indices:
            self._indices[folder] = read_index(self.files[folder])
        if name not in self._indices[folder].images:
            raise LabelMapError(f'{self.files[folder]} has no annotation of the mask {printable(item.mask)}')
        segments = segment_ids(item.mask)
        check_size(item.mask, (segments.shape[1], segments.shape[0]), item.image)
        ids, categories = self._indices[folder].of(name)
        return relabel(_categories(segments, ids, categories, item.mask), self.table, item.mask, f'see {self.files[folder]}')


def segment_ids(path: str) -> np.ndarray:
    """(H, W) uint32 segment ids: red + 256 green + 65536 blue.

    Raises:
        LabelMapError: The file cannot be read, or is not RGB.
    """
    try:
        with Image.open(path) as image:
            if image.mode != 'RGB':
                raise LabelMapError(f'mask {printable(path)} has mode {image.mode}: panoptic masks are RGB')
            colors = np.array(image).astype(np.uint32)
    except LabelMapError:
        raise
    except READ_ERRORS as error:
        raise LabelMapError(f'mask {printable(path)} cannot be read ({said(error)})') from error
    return colors[..., 0] + (colors[..., 1] << 8) + (colors[..., 2] << 16)


def _categories(segments: np.ndarray, ids: list[int], categories: list[int], path: str) -> np.ndarray:
    """(H, W) int32 category ids of segment ids, 0 for segment 0."""
    values, places = np.unique(segments, return_inverse=True)
    found = np.zeros(len(values), dtype=np.int32)
    for number, value in enumerate(values.tolist()):
        place = bisect_left(ids, value)
        if place < len(ids) and ids[place] == value:
            found[number] = categories[place]
        elif value:
            raise LabelMapError(f'mask {printable(path)} has the segment {value}, which its annotation does not list')
    return found[places].reshape(segments.shape)


def read_index(path: str) -> SegmentIndex:
    """Segments of a panoptic JSON file, which is read in pieces.

    Raises:
        ValueError: The file is broken, or a record lacks a key; names the file and the record.
    """
    index = SegmentIndex({}, array('q', [0]), array('q'), array('i'))
    for number, (_, record) in enumerate(json_records(path, ('annotations',))):
        try:
            name, segments = Path(record['file_name']).stem, sorted(map(_segment, record['segments_info']))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f'{path}: annotation {number} must have file_name, and segments_info with id and category_id ({error!r})'
            ) from error
        if name in index.images:
            raise ValueError(f'{path}: two annotations of {printable(name)}')
        index.images[name] = len(index.images)
        index.ids.extend(segment for segment, _ in segments)
        index.categories.extend(category for _, category in segments)
        index.starts.append(len(index.ids))
    return index


def _segment(record: Any) -> tuple[int, int]:
    segment, category = record['id'], record['category_id']
    if type(segment) is not int or type(category) is not int:
        raise ValueError(f'segment {segment!r} of category {category!r}')
    return segment, category
