"""Finds what is wrong with annotated data before a training run does, and says it with file and item.

The loaders of mmdet and mmseg drop or misread much of this without a word: categories the class list does not name,
annotations of images that are not there, labels beyond the number of classes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from mmengine import registry as root
from PIL import Image, ImageOps

from mmadclr.datasets.class_folders import ClassFolders
from mmadclr.datasets.image_dataset import READ_ERRORS, ImageDataset, load_rgb

MAX_SHOWN = 20
# A polygon further outside than this share of the image's side belongs to an image of another size.
POLYGON_SLACK = 0.1


class DatasetError(ValueError):
    """Annotations do not fit their images, or the class list."""


def check_dataset(cfg: Mapping, num_items: int | None = None, allow_other_categories: bool = False) -> str:
    """Checks the data set of a config and returns a line about what was looked at.

    All records of an annotation file are checked; images and masks are opened for the first ``num_items`` only (None:
    all). ``cfg`` is resolved in mmengine's current default scope. Wrappers (``dataset`` or ``datasets``) are looked into.

    Raises:
        DatasetError: Lists up to ``MAX_SHOWN`` problems with their files.
    """
    inner = cfg.get('datasets') or ([cfg['dataset']] if isinstance(cfg.get('dataset'), Mapping) else None)
    if inner is not None:
        return '; '.join(check_dataset(part, num_items, allow_other_categories) for part in inner)
    problems = list(_root_problems(cfg))
    if not problems:
        problems = list(_problems(cfg, num_items, allow_other_categories))
    if problems:
        more = [f'and {len(problems) - MAX_SHOWN} more'] if len(problems) > MAX_SHOWN else []
        raise DatasetError('\n  '.join((f'{_name(cfg)} has {len(problems)} problems:', *problems[:MAX_SHOWN], *more)))
    return f'{_name(cfg)}: {"all" if num_items is None else f"the first {num_items}"} items fit'


def _name(cfg: Mapping) -> str:
    where = [str(cfg[key]) for key in ('data_root', 'ann_file', 'split') if cfg.get(key)]
    where += [] if cfg.get('ann_file') else (cfg.get('data_prefix') or {}).values()
    return f'{cfg["type"]}({", ".join(where)})'


def _root_problems(cfg: Mapping) -> Iterator[str]:
    folder = cfg.get('data_root')
    drawn = str(cfg['type']).rpartition('.')[2].startswith(('Shapes', 'Scenes'))
    if folder and not drawn and '://' not in str(folder) and not Path(folder).is_dir():
        yield f'data_root {folder} does not exist; put the data there or set data_root of the data set in the config'


def _problems(cfg: Mapping, num_items: int | None, allow_other_categories: bool) -> Iterator[str]:
    """Those of the kinds of data sets known here; of others, none."""
    with root.DATASETS.switch_scope_and_registry(cfg.get('_scope_')) as registry:
        component = registry.get(cfg['type'])
        if isinstance(component, type) and issubclass(component, ImageDataset):
            return image_problems(registry.build(dict(cfg)), num_items)
        if component is ClassFolders:
            return class_folder_problems(registry.build({**cfg, 'lazy_init': True, 'pipeline': []}), num_items)
        if isinstance(component, type) and not _reads_as(component, 'CocoDataset') | _reads_as(component, 'BaseSegDataset'):
            return iter(())
        # Paths resolved, annotations not yet loaded.
        dataset = registry.build({**cfg, 'lazy_init': True, 'pipeline': []})
    if _reads_as(type(dataset), 'BaseSegDataset'):
        return segmentation_problems(dataset, num_items)
    classes, img_dir = dataset.metainfo['classes'], dataset.data_prefix['img']
    return coco_problems(dataset.ann_file, img_dir, classes, num_items, allow_other_categories, dataset.test_mode)


def _reads_as(component: type, name: str) -> bool:
    """Whether a class loads its annotations exactly as the named class of mmdet or mmseg (subclasses may differ)."""
    bases = {cls.__name__: cls for cls in component.__mro__}
    return name in bases and component.load_data_list is bases[name].load_data_list


def image_problems(dataset: ImageDataset, num_items: int | None = None) -> Iterator[str]:
    """Images that cannot be decoded."""
    for index in islice(range(len(dataset)), num_items):
        try:
            load_rgb(dataset.path(index))
        except READ_ERRORS as error:
            yield f'{dataset.path(index)}: {error}'


def class_folder_problems(dataset: ClassFolders, num_items: int | None = None) -> Iterator[str]:
    """Folders and lists that do not fit, and images that cannot be decoded, of a data set built lazily."""
    try:
        items = dataset.load_data_list()
    except (ValueError, FileNotFoundError) as error:
        yield str(error)
        return
    for item in islice(items, num_items):
        try:
            load_rgb(item['img_path'])
        except READ_ERRORS as error:
            yield f'{item["img_path"]}: {error}'


def coco_problems(
    ann_file: str,
    img_dir: str,
    classes: tuple[str, ...],
    num_items: int | None = None,
    allow_other: bool = False,
    test_mode: bool = False,
) -> Iterator[str]:
    """Problems of an annotation file in COCO's format, in itself, with its images and with a class list.

    With ``test_mode`` there need be no annotations, as in the files of COCO's test sets.
    """
    content, problems = _read_coco(ann_file, test_mode)
    yield from problems
    if problems:
        return
    for key in ('images', 'annotations'):
        for value, count in Counter(record['id'] for record in content[key]).items():
            if count > 1:
                yield f'{ann_file}: {count} {key} have the id {value}'
    yield from _category_problems(ann_file, content, classes, allow_other)
    images = {image['id']: image for image in content['images']}
    for annotation in content['annotations']:
        problem = _annotation_problem(annotation, images.get(annotation['image_id']))
        if problem:
            yield f'{ann_file}: annotation {annotation["id"]} {problem}'
    for image in islice(content['images'], num_items):
        problem = _size_problem(Path(img_dir, image['file_name']), image['width'], image['height'])
        if problem:
            yield f'{ann_file}: image {image["id"]}: {problem}'


def _read_coco(ann_file: str, test_mode: bool) -> tuple[dict, list[str]]:
    """Content of an annotation file, and what keeps its records from being read."""
    try:
        content = json.loads(Path(ann_file).read_text())
    except (OSError, ValueError) as error:
        return {}, [f'{ann_file}: {error}']
    content = {'annotations': [], **content} if isinstance(content, dict) else {}
    needed = ('images', 'categories') if test_mode else ('images', 'annotations', 'categories')
    missing = [key for key in needed if not content.get(key)]
    if missing:
        return content, [f'{ann_file}: empty or without {", ".join(missing)}; needed are {", ".join(needed)}']
    return content, list(_incomplete_records(ann_file, content))


def _incomplete_records(ann_file: str, content: dict) -> Iterator[str]:
    keys = {
        'images': ('id', 'file_name', 'width', 'height'),
        'annotations': ('id', 'image_id', 'category_id', 'bbox'),
        'categories': ('id', 'name'),
    }
    for part, needed in keys.items():
        for number, record in enumerate(content[part]):
            absent = [key for key in needed if key not in record]
            if absent:
                yield f'{ann_file}: record {number} of {part} has no {", ".join(absent)}'


def _category_problems(ann_file: str, content: dict, classes: tuple[str, ...], allow_other: bool) -> Iterator[str]:
    names = {category['id']: category['name'] for category in content['categories']}
    unused = [name for name in classes if name not in names.values()]
    if unused:
        found = ', '.join(map(str, [*names.values()][:5]))
        yield f'{ann_file}: no category is called {", ".join(unused[:5])}; those of the file are {found}...'
    counts = Counter(annotation['category_id'] for annotation in content['annotations'])
    for category, count in counts.items():
        if category not in names:
            yield f'{ann_file}: {count} annotations have category_id {category}, which categories does not list'
        elif names[category] not in classes and not allow_other:
            yield (
                f'{ann_file}: {count} annotations of category {category} ({names[category]}) would be ignored: it is not '
                'among metainfo.classes. If that is meant, set dataset_check.allow_other_categories=True'
            )


def _annotation_problem(annotation: dict, image: dict | None) -> str | None:
    if image is None:
        return f'is of image_id {annotation["image_id"]}, which images does not list'
    width, height = image['width'], image['height']
    left, top, w, h = annotation['bbox']
    if w >= 1 and h >= 1 and (left >= width or top >= height or left + w <= 0 or top + h <= 0):
        return f'has a box {annotation["bbox"]} outside its image of {width}x{height} pixels ({image["file_name"]})'
    mask = annotation.get('segmentation')
    if isinstance(mask, dict) and list(mask['size']) != [height, width]:
        return f'has a mask of {mask["size"][1]}x{mask["size"][0]} pixels, its image {image["file_name"]} {width}x{height}'
    if isinstance(mask, list) and mask:
        points = np.concatenate([np.asarray(part, dtype=float).reshape(-1, 2) for part in mask])
        if (points.max(axis=0) > (1 + POLYGON_SLACK) * np.array([width, height])).any():
            return f'has a polygon outside its image of {width}x{height} pixels ({image["file_name"]})'
    return None


def _size_problem(path: Path, width: int, height: int) -> str | None:
    """What is wrong with an image that should have this size."""
    try:
        with Image.open(path) as image:
            found = ImageOps.exif_transpose(image).size if image.getexif() else image.size
    except READ_ERRORS as error:
        return f'{path} cannot be read ({error})'
    return None if found == (width, height) else f'{path} has {found[0]}x{found[1]} pixels, its annotation {width}x{height}'


def segmentation_problems(dataset: Any, num_items: int | None = None) -> Iterator[str]:
    """Problems of the masks of an ``mmseg.BaseSegDataset`` (built lazily): missing, of another size, unknown labels."""
    for folder in dataset.data_prefix.values():
        if folder and '://' not in str(folder) and not Path(folder).is_dir():
            yield f'folder {folder} does not exist'
            return
    if dataset.ann_file and not Path(dataset.ann_file).is_file():
        yield f'ann_file {dataset.ann_file} does not exist'
        return
    items = dataset.load_data_list()
    if not items:
        yield f'{dataset.data_prefix["img_path"]}: there is no image *{dataset.img_suffix}'
    if not dataset.data_prefix.get('seg_map_path'):
        return  # images to predict on, without masks
    classes = type(dataset).METAINFO.get('classes') or dataset.metainfo['classes']
    # With reduce_zero_label, 0 becomes "ignore" and the rest moves down by one.
    allowed = {
        *range(len(classes) + int(dataset.reduce_zero_label)),
        255 if dataset.reduce_zero_label else dataset.ignore_index,
    }
    for item in islice(items, num_items):
        problem = _mask_problem(Path(item['img_path']), Path(item['seg_map_path']), allowed)
        if problem:
            yield problem


def _mask_problem(image_path: Path, mask_path: Path, allowed: set[int]) -> str | None:
    try:
        with Image.open(mask_path) as mask:
            pixels = np.asarray(mask)
    except READ_ERRORS as error:
        return f'mask {mask_path} of {image_path.name} cannot be read ({error})'
    if pixels.ndim != 2:
        return f'mask {mask_path} has {pixels.shape[2]} channels; label maps have one, the class of each pixel'
    size = _size_problem(image_path, pixels.shape[1], pixels.shape[0])
    if size:
        return f'mask {mask_path}: {size}'
    unknown = sorted(set(np.unique(pixels).tolist()) - allowed)
    if unknown:
        return f'mask {mask_path} holds the labels {unknown[:8]}, which are neither classes nor the ignored label'
    return None
