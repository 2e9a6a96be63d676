"""SPair-71k: image pairs with corresponding keypoints, test split.

Min et al., *SPair-71k: a large-scale benchmark for semantic correspondence*, 2019.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmadclr.datasets.benchmarks.labels import displayed_size_of
from mmadclr.datasets.benchmarks.layouts import Guide, locate
from mmadclr.datasets.benchmarks.listing import Lazy, files_by_name, listed_names, require
from mmadclr.datasets.benchmarks.types import PairBenchmark, PointPair
from mmadclr.names import printable

PAIRS, LIST = 'PairAnnotation/test', 'Layout/large/test.txt'
KEYS = ('category', 'src_imname', 'trg_imname', 'src_imsize', 'trg_imsize', 'src_bndbox', 'trg_bndbox', 'src_kps', 'trg_kps')
# Systems without colons in file names replace that before the category.
COLON = re.compile(r'(?:_|%3A)(?=[a-z]+$)')
CATEGORY = re.compile(r'(?<=[^a-z])[a-z]+$')
VIEWPOINTS = (0, 1, 2)
GUIDE = Guide(
    ('.', 'SPair-71k', 'spair', 'SPair71k', 'spair/SPair-71k'),
    {'2019': ('JPEGImages', PAIRS)},
    'SPair-71k/JPEGImages/<category>/*.jpg, SPair-71k/PairAnnotation/test/*.json',
    'cvlab.postech.ac.kr/research/SPair-71k (SPair-71k.tar.gz)',
)


class PairReader:
    """Reads pairs. ``images``: folder of the categories."""

    def __init__(self, images: Path) -> None:
        self.images = str(images)

    def __call__(self, path: str) -> PointPair:
        """The pair of an annotation file.

        Raises:
            ValueError: The file is broken or incomplete, an image has another size than it says, a box has no area, or a
                point lies outside; names the file.
            FileNotFoundError: An image is missing.
        """
        record = _record(path)
        sides = [_side(record, prefix, Path(self.images), path) for prefix in ('src', 'trg')]
        (source, source_size, source_box), (target, target_size, target_box) = sides
        points = _points(record, (source_size, target_size), path)
        viewpoint = record.get('viewpoint_variation')
        if viewpoint not in VIEWPOINTS:
            raise ValueError(f'{printable(path)}: viewpoint_variation {viewpoint!r} must be 0, 1 or 2')
        name, category = _pair_name(path), record['category']
        return PointPair(
            *(name, category, source, target, points[0], points[1], source_box, target_box),
            *(int(viewpoint), source_size, target_size, points[2]),
        )


def open_spair(root: str) -> PairBenchmark:
    """SPair-71k, 12,234 test pairs of 18 categories, in the order of ``Layout/large/test.txt`` or, without it, of names.

    Raises:
        LayoutError: Parts are missing.
        FileNotFoundError: Listed pairs are missing, or there are none.
        ValueError: See ``listed_names``; for items, see :class:`PairReader`.
    """
    base = locate('spair', root, GUIDE).base
    found = {_pair_name(path): path for path in files_by_name(base / PAIRS, ('.json',), deep=True).values()}
    names = listed_names(base / LIST) if (base / LIST).is_file() else sorted(found)
    require(names, found, 'annotation', base / PAIRS, base / LIST)
    if not names:
        raise FileNotFoundError(f'{printable(base / PAIRS)} has no *.json files')
    categories = sorted({_category(name, found[name]) for name in names})
    _check_folders(categories, base / 'JPEGImages')
    return PairBenchmark('spair', tuple(categories), Lazy([found[name] for name in names], PairReader(base / 'JPEGImages')))


def _pair_name(path: str) -> str:
    return COLON.sub(':', Path(path).stem)


def _category(name: str, path: str) -> str:
    """Of a name ``000001-2008_000033-2008_000187:cow``, or from the file if it was renamed."""
    found = CATEGORY.search(name)
    return found[0] if found else _record(path)['category']


def _check_folders(categories: list[str], images: Path) -> None:
    absent = [category for category in categories if not (images / category).is_dir()]
    if absent:
        raise FileNotFoundError(f'{printable(images)} has no folder for the categories {", ".join(absent)}')


def _record(path: str) -> dict[str, Any]:
    try:
        record = json.loads(Path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f'{printable(path)} cannot be read ({error})') from error
    missing = [key for key in KEYS if key not in record] if isinstance(record, dict) else list(KEYS)
    if missing:
        raise ValueError(f'{printable(path)} has no {", ".join(missing)}')
    return record


def _side(record: Mapping, prefix: str, images: Path, path: str) -> tuple[str, tuple[int, int], Tensor]:
    """Image, its width and height, and the box of the source or target."""
    image = _with_any_extension(images / str(record['category']) / str(record[f'{prefix}_imname']))
    if not image.is_file():
        raise FileNotFoundError(f'{printable(path)}: {prefix}_imname: no image {printable(image)}')
    size, shown = _numbers(record[f'{prefix}_imsize'], path, f'{prefix}_imsize')[:2], displayed_size_of(str(image))
    if shown is None:
        raise ValueError(f'{printable(path)}: {prefix}_imname: image {printable(image)} cannot be read')
    if tuple(size) != shown:
        raise ValueError(
            f'{printable(path)}: {prefix}_imsize is {size}, but {printable(image)} has {shown[0]}x{shown[1]} pixels: points '
            'would be displaced; restore the original image'
        )
    box = _numbers(record[f'{prefix}_bndbox'], path, f'{prefix}_bndbox')
    if len(box) != 4 or box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(f'{printable(path)}: {prefix}_bndbox {box} must be left, top, right, bottom')
    return str(image), shown, torch.tensor(box, dtype=torch.float32)


def _with_any_extension(image: Path) -> Path:
    """An image, or the one with another spelling of its extension."""
    spellings = (image.with_suffix(spelling) for spelling in ('.JPG', '.jpeg', '.JPEG'))
    return image if image.is_file() else next((each for each in spellings if each.is_file()), image)


def _points(
    record: Mapping, sizes: tuple[tuple[int, int], tuple[int, int]], path: str
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Source and target points (K, 2) that are visible in both images, and their ids."""
    source, target = record['src_kps'], record['trg_kps']
    if not isinstance(source, list) or not isinstance(target, list) or len(source) != len(target):
        raise ValueError(f'{printable(path)}: src_kps and trg_kps must be lists of the same length')
    ids = record.get('kps_ids', [*range(len(source))])
    if not isinstance(ids, list) or len(ids) != len(source):
        raise ValueError(f'{printable(path)}: kps_ids must name the {len(source)} points of src_kps')
    # Points without a position are invisible; pair annotations list common points only.
    common = [number for number, pair in enumerate(zip(source, target, strict=True)) if None not in pair]
    both = [
        _inside([_numbers(points[number], path, key) for number in common], size, path, key)
        for points, size, key in zip((source, target), sizes, ('src_kps', 'trg_kps'), strict=True)
    ]
    return both[0], both[1], tuple(str(ids[number]) for number in common)


def _inside(points: list[list[float]], size: tuple[int, int], path: str, key: str) -> Tensor:
    """(K, 2) points; raises ValueError for one outside the square into which the image is padded."""
    for point in points:
        if len(point) != 2 or min(point) < 0 or max(point) > max(size):
            raise ValueError(f'{printable(path)}: {key}: point {point} is outside its image of {size[0]}x{size[1]} pixels')
    return torch.tensor(points, dtype=torch.float32).reshape(-1, 2)


def _numbers(values: Any, path: str, key: str) -> list[float]:
    numeric = isinstance(values, list) and all(type(value) in (int, float) for value in values)
    if not numeric:
        raise ValueError(f'{printable(path)}: {key}: {values!r} must be a list of numbers')
    return values
