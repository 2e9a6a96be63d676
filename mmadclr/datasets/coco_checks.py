"""Checks COCO annotation files: every key and format that mmdet's loading, its metric and pycocotools read.

Sources: ``mmdet/datasets/coco.py`` and ``mmdet/datasets/transforms/loading.py`` (loading), ``pycocotools/coco.py`` and
``pycocotools/cocoeval.py`` (scoring). Several of them silently drop or misread unexpected values.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mmadclr.datasets.coco_masks import mask_problem, polygon_corners
from mmadclr.datasets.findings import Findings
from mmadclr.datasets.loaders import Loading, hidden_turn, size_problem

MAX_COORDINATE = 1e9
# Maximum difference in pixels between an object's box and that of its polygon.
BOX_SLACK = 2.0


class Usage(NamedTuple):
    """How an annotation file is used.

    Attributes:
        masks: Masks are loaded or scored.
        poly2mask: Loaded masks become bitmaps; otherwise masks that are not polygons are dropped.
        scored: pycocotools evaluates against it.
        empty: Annotations may be missing, as in the files of COCO's test sets.
    """

    masks: bool = False
    poly2mask: bool = True
    scored: bool = False
    empty: bool = False


class Key(NamedTuple):
    """A key of a record: test and description of its valid values, and what to do if it is missing."""

    test: Callable[[Any], bool]
    words: str
    remedy: str = ''


def is_number(value: Any) -> bool:
    """Whether it is a finite number of reasonable magnitude."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < MAX_COORDINATE


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ''


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value)) and min(value[2:]) >= 0


ID = Key(is_integer, 'an integer', 'number the records')
SIDE = Key(lambda value: is_integer(value) and value > 0, 'a number of pixels', 'write the size of the image as displayed')
KEYS = {
    'images': {'id': ID, 'file_name': Key(_is_name, 'a file name'), 'width': SIDE, 'height': SIDE},
    'annotations': {
        'id': ID,
        'image_id': Key(is_integer, 'an integer, the id of an image'),
        'category_id': Key(is_integer, 'an integer, the id of a category'),
        'bbox': Key(
            _is_box,
            'four finite numbers: x, y, width and height, the last two non-negative',
            'write x, y, width and height of the object',
        ),
        'area': Key(
            lambda value: is_number(value) and value >= 0,
            'a finite non-negative number',
            'write the pixels of the object, or width x height of its box',
        ),
    },
    'categories': {'id': ID, 'name': Key(_is_name, 'a name')},
}
SINGULAR = {'images': 'image', 'annotations': 'annotation', 'categories': 'category'}
ISCROWD = Key(lambda value: isinstance(value, (int, float)) and value in (0, 1), '0 or 1', 'write 0 for single objects')


def coco_findings(
    ann_file: str,
    img_dir: str,
    classes: Sequence[str],
    usage: Usage = Usage(),  # noqa: B008
    num_items: int | None = None,
    allow_other: bool = False,
    loading: Loading = Loading(),  # noqa: B008
) -> Findings:
    """Problems of an annotation file: within the file, with its images and with a class list.

    All records are checked; images are opened only for the first ``num_items`` (None: all).
    """
    findings = Findings()
    content = read_coco(ann_file, findings, usage.empty)
    if content is None:
        return findings
    _check_records(ann_file, content, usage, findings)
    if findings.problems:
        return findings
    _check_ids(ann_file, content, usage, findings)
    _check_categories(ann_file, content, classes, allow_other, findings)
    _check_annotations(ann_file, content, classes, usage, findings)
    _check_images(ann_file, content['images'], img_dir, num_items, loading, findings)
    return findings


def read_coco(ann_file: str, findings: Findings, empty: bool = False) -> dict | None:
    """Content of an annotation file with the required lists of records, or None after adding a problem."""
    try:
        content = json.loads(Path(ann_file).read_text())  # same encoding as pycocotools
    except (OSError, ValueError, RecursionError) as error:
        findings.problem(f'{ann_file}: {error}')
        return None
    content = content if isinstance(content, dict) else {}
    needed = ('images', 'categories') if empty else ('images', 'annotations', 'categories')
    missing = [key for key in needed if not content.get(key)]
    if missing:
        findings.problem(f'{ann_file}: empty or without {", ".join(missing)}; required: {", ".join(needed)}')
        return None
    content = {'annotations': [], **content}
    for part in KEYS:
        if not isinstance(content[part], list):
            findings.problem(f'{ann_file}: {part} is {_shown(content[part])}, not a list of records')
    return content


def _check_records(ann_file: str, content: Mapping, usage: Usage, findings: Findings) -> None:
    """Missing keys, and values of the wrong type."""
    if usage.scored and 'info' not in content and pycocotools_needs_info():
        findings.problem(f"{ann_file}: has no info, which this release of pycocotools requires; add 'info': {{}}")
    for part, keys in KEYS.items():
        for number, record in enumerate(content[part] if isinstance(content[part], list) else []):
            where = f'record {number} of {part}'
            if not isinstance(record, dict):
                findings.problem(f'{ann_file}: {where} is {_shown(record)}, not an object', (part, 'record'))
                continue
            allowed = {**keys, 'iscrowd': ISCROWD} if part == 'annotations' else keys
            needed = allowed if usage.scored else keys
            absent = [key for key in needed if key not in record]
            if absent:
                remedy = '; '.join(filter(None, (needed[key].remedy for key in absent)))
                text = f'{ann_file}: {where} has no {", ".join(absent)}'
                if 'id' in record:
                    text += f' ({SINGULAR[part]} {_shown(record["id"])})'
                findings.problem(f'{text}; {remedy}' if remedy else text, (part, *absent))
            for key, wanted in allowed.items():
                if key in record and not wanted.test(record[key]):
                    text = f'{key} {_shown(record[key])}, which is not {wanted.words}'
                    findings.problem(f'{ann_file}: {_called(part, record, number)} has {text}', (part, key))


def _called(part: str, record: Mapping, number: int) -> str:
    return f'{SINGULAR[part]} {record["id"]}' if is_integer(record.get('id')) else f'record {number} of {part}'


def _shown(value: Any) -> str:
    """A value as written in the file, truncated to a readable length."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else f'{text[:57]}...'


def _check_ids(ann_file: str, content: Mapping, usage: Usage, findings: Findings) -> None:
    for part in KEYS:
        for value, count in Counter(record['id'] for record in content[part]).items():
            if count > 1:
                findings.problem(f'{ann_file}: {count} {part} have the id {value}', ('id', part))
    if usage.scored and any(annotation['id'] == 0 for annotation in content['annotations']):
        findings.remark(f'{ann_file}: annotation 0 is never matched: pycocotools treats id 0 as no match; start ids at 1')


def _check_categories(
    ann_file: str, content: Mapping, classes: Sequence[str], allow_other: bool, findings: Findings
) -> None:
    names = {category['id']: category['name'] for category in content['categories']}
    for name, count in Counter(names.values()).items():
        if count > 1:
            ids = [category for category in names if names[category] == name]
            findings.problem(f'{ann_file}: categories {ids} are all named {name}, so labels by name are ambiguous')
    unused = [name for name in classes if name not in names.values()]
    if unused:
        found = ', '.join([*names.values()][:5])
        findings.problem(f'{ann_file}: no category is named {", ".join(unused[:5])}; the file has {found}...')
    counts = Counter(annotation['category_id'] for annotation in content['annotations'])
    for category, count in counts.items():
        if category not in names:
            findings.problem(
                f'{ann_file}: {count} annotations have category_id {category}, which categories does not list '
                f'(annotation {_first_of(content, category)})',
                'category_id',
            )
        elif names[category] not in classes and not allow_other:
            findings.problem(
                f'{ann_file}: {count} annotations of category {category} ({names[category]}) would be ignored: it is not '
                'in metainfo.classes. If this is intended, set dataset_check.allow_other_categories=True'
            )
    absent = [name for category, name in names.items() if name in classes and not counts[category]]
    if absent and counts:
        findings.remark(f'{ann_file}: no annotations of {", ".join(absent[:6])}{"..." if absent[6:] else ""}')


def _first_of(content: Mapping, category: int) -> int:
    return next(annotation['id'] for annotation in content['annotations'] if annotation['category_id'] == category)


def _check_annotations(ann_file: str, content: Mapping, classes: Sequence[str], usage: Usage, findings: Findings) -> None:
    images = {image['id']: image for image in content['images']}
    wanted = {category['id'] for category in content['categories'] if category['name'] in classes}
    usable = 0
    readings: Counter = Counter()
    for annotation in content['annotations']:
        called, image = f'{ann_file}: annotation {annotation["id"]}', images.get(annotation['image_id'])
        if image is None:
            text = f'has image_id {annotation["image_id"]}, which images does not list'
            findings.problem(f'{called} {text}', 'image_id')
            continue
        reading = read_box(annotation, image)
        readings.update({reading: 1, 'beyond': reading == 'corners' and _reaches_beyond(annotation, image)})
        _check_box(called, annotation, image, reading, findings)
        masked = usage.masks and annotation['category_id'] in wanted
        problem = mask_problem(annotation.get('segmentation'), image, masked, usage.poly2mask)
        if problem:
            findings.problem(f'{called} {problem[1]}', problem[0])
        usable += annotation['category_id'] in wanted and not _left_out(annotation) and not annotation.get('iscrowd')
    if readings['beyond'] and readings['corners'] == len(content['annotations']) <= 10 * readings['beyond']:
        findings.problem(
            f'{ann_file}: {readings["beyond"]} boxes extend beyond their images, and all boxes would fit as corners '
            'x1, y1, x2, y2: bbox must be x, y, width, height'
        )
    if content['annotations'] and not usable and not findings.problems:
        findings.problem(f'{ann_file}: no annotation is usable: all are crowds, of other categories or smaller than a pixel')


def _check_box(called: str, annotation: Mapping, image: Mapping, reading: str, findings: Findings) -> None:
    box = annotation['bbox']
    if reading == 'outside':
        where = f'its image of {image["width"]}x{image["height"]} pixels ({image["file_name"]})'
        findings.problem(f'{called} has a box {box} outside {where}', 'outside')
    elif reading == 'corners of its polygon':
        text = f'has a box {box}, the corners x1, y1, x2, y2 of its polygon: bbox must be x, y, width, height'
        findings.problem(f'{called} {text}', 'corners')
    elif _left_out(annotation):
        findings.remark(
            f'{called} has a box of {box[2]:g}x{box[3]:g} pixels and area {annotation["area"]:g}: mmdet ignores objects '
            'smaller than a pixel',
            'left out',
        )


def _left_out(annotation: Mapping) -> bool:
    return annotation['area'] <= 0 or min(annotation['bbox'][2:]) < 1


def read_box(annotation: Mapping, image: Mapping) -> str:
    """Interpretation of a box: 'size' (x, y, width, height, as required), or 'outside' of the image.

    'corners' if the numbers would also be valid as x1, y1, x2, y2 and there is no polygon to decide; 'corners of its
    polygon' if the polygon confirms it.
    """
    left, top, w, h = annotation['bbox']
    width, height = image['width'], image['height']
    if w >= 1 and h >= 1 and (left >= width or top >= height or left + w <= 0 or top + h <= 0):
        return 'outside'
    if not (w > left >= 0 and h > top >= 0 and w <= width and h <= height):
        return 'size'
    corners = polygon_corners(annotation.get('segmentation'))
    if corners is None:
        return 'corners'
    as_size = max(abs(left + w - corners[2]), abs(top + h - corners[3]))
    as_corners = max(abs(a - b) for a, b in zip(annotation['bbox'], corners, strict=True))
    return 'corners of its polygon' if as_size > BOX_SLACK >= as_corners else 'size'


def _reaches_beyond(annotation: Mapping, image: Mapping) -> bool:
    left, top, w, h = annotation['bbox']
    return left + w > image['width'] + BOX_SLACK or top + h > image['height'] + BOX_SLACK


def _check_images(
    ann_file: str, images: Sequence[Mapping], img_dir: str, num_items: int | None, loading: Loading, findings: Findings
) -> None:
    for image in islice(images, num_items):
        path = Path(img_dir, image['file_name'])
        problem, turn = size_problem(path, image['width'], image['height'], loading), hidden_turn(path)
        if problem:
            kind = 'unreadable' if 'cannot be read' in problem else 'size'
            findings.problem(f'{ann_file}: image {image["id"]}: {problem}', kind)
        elif turn:
            findings.remark(f'{ann_file}: image {image["id"]}: {turn}', 'turned')


def check_scored_file(ann_file: str, metric: Mapping, findings: Findings) -> None:
    """Checks that a metric's file is that of the data set, or lists the same images."""
    other = metric.get('ann_file')
    if not other or Path(other).resolve() == Path(ann_file).resolve():
        return
    ours, theirs = (read_coco(str(path), findings, empty=True) for path in (ann_file, other))
    if ours is None or theirs is None or findings.problems:
        return
    listed, scored = ({image.get('id') for image in content['images']} for content in (ours, theirs))
    if listed != scored:
        findings.problem(
            f'{other}, used by {metric["type"]}, lists {len(scored - listed)} images that are not in {ann_file} of the '
            f'data set, and lacks {len(listed - scored)}: set ann_file of the evaluator to that of the data set'
        )


@lru_cache(maxsize=1)
def pycocotools_needs_info() -> bool:
    """Whether the installed release fails to load results for a file without ``info``."""
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = dict(images=[dict(id=1)], categories=[], annotations=[])
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        try:
            coco.loadRes([dict(image_id=1, category_id=1, bbox=[0, 0, 1, 1], score=1.0)])
        except KeyError:
            return True
    return False
