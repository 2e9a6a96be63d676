"""PASCAL VOC: semantic label maps of 2012 with the augmented training list, and boxes of 2007 and 2012.

Everingham et al., *The PASCAL visual object classes challenge*, 2010; augmented masks: Hariharan et al., *Semantic contours
from inverse detectors*, ICCV 2011.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from xml.etree import ElementTree

import torch
from mmengine.logging import print_log

from mmadclr.datasets.benchmarks.labels import LabelReader, identity
from mmadclr.datasets.benchmarks.layouts import Guide, Located, existing, locate, missing_parts
from mmadclr.datasets.benchmarks.listing import Lazy, files_by_name, listed_names, listed_pairs, require, some_of
from mmadclr.datasets.benchmarks.types import BoxBenchmark, BoxedImage, LabeledImage, SegmentationBenchmark
from mmadclr.names import printable

CLASSES = (
    *('background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable'),
    *('dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor'),
)
# How images of a year are called.
NAMES = {'2007': re.compile(r'\d{6}'), '2012': re.compile(r'\d{4}_\d{6}')}
# By layout: folders of images and of lists.
FOLDERS = {'devkit': ('JPEGImages', 'ImageSets/Segmentation'), 'sets': ('images', 'sets')}
AUGMENTED = 'SegmentationClassAug'
GUIDE = Guide(
    (
        *('.', 'VOC2012', 'VOCdevkit/VOC2012', 'VOC2012/VOCdevkit/VOC2012', 'VOCSegmentation', 'voc'),
        *('voc/VOCdevkit/VOC2012', 'pascal'),
    ),
    {
        name: (images, 'SegmentationClass', f'{lists}/trainaug.txt|{lists}/aug.txt|{lists}/train.txt', f'{lists}/val.txt')
        for name, (images, lists) in FOLDERS.items()
    },
    'VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,SegmentationClassAug}, '
    'VOCdevkit/VOC2012/ImageSets/Segmentation/{trainaug,train,val}.txt '
    'or {images,SegmentationClass,SegmentationClassAug}, sets/{trainaug,train,val}.txt',
    'host.robots.ox.ac.uk/pascal/VOC/voc2012 (VOCtrainval_11-May-2012.tar); the augmented masks and trainaug.txt come '
    'from the SBD data set, for example by tools/dataset_converters/voc_aug.py of open-mmlab/mmsegmentation',
)


def open_voc(root: str) -> SegmentationBenchmark:
    """VOC 2012, 21 classes: trained on ``trainaug`` (10,582 images), or on ``train`` if there are no augmented masks.

    In the latter case the name is ``voc_train``, and a warning is logged. Training masks are those of
    ``SegmentationClassAug``, as in Leopart and NeCo (``data/VOCdevkit/vocdata.py``); with mmsegmentation's ``aug.txt``,
    those of ``train.txt`` are from ``SegmentationClass``.

    Raises:
        LayoutError: Parts are missing; also if there are augmented masks without a list or the reverse.
        FileNotFoundError, ValueError: See ``listed_pairs`` and ``listed_names``.
    """
    where = locate('voc', root, GUIDE)
    lists = FOLDERS[where.layout][1]
    augmented = existing(where.base, f'{lists}/trainaug.txt|{lists}/aug.txt')
    if augmented is None and existing(where.base, AUGMENTED) is None:
        message = f'voc: {where.base} has no augmented masks: trained on train.txt, reported as voc_train'
        print_log(message, 'current', logging.WARNING)
        return _open_plain(where)
    if augmented is None or existing(where.base, AUGMENTED) is None:
        absent = AUGMENTED if augmented else f'{lists}/trainaug.txt|{lists}/aug.txt'
        raise missing_parts('voc (or name voc_train, which uses train.txt)', where.base, [absent], GUIDE)
    train = _pairs(where, augmented, AUGMENTED)
    if augmented.name == 'aug.txt':
        if existing(where.base, f'{lists}/train.txt') is None:
            raise missing_parts('voc', where.base, [f'{lists}/train.txt'], GUIDE)
        train = [*_pairs(where, where.base / lists / 'train.txt', 'SegmentationClass'), *train]
    return _benchmark('voc', where, train)


def open_voc_train(root: str) -> SegmentationBenchmark:
    """VOC 2012 trained on ``train`` (1,464 images) with the original masks.

    Raises:
        LayoutError, FileNotFoundError, ValueError: See :func:`open_voc`.
    """
    return _open_plain(locate('voc_train', root, GUIDE))


def _open_plain(where: Located) -> SegmentationBenchmark:
    path = where.base / FOLDERS[where.layout][1] / 'train.txt'
    if not path.exists():
        raise missing_parts('voc_train', where.base, [str(path.relative_to(where.base))], GUIDE)
    return _benchmark('voc_train', where, _pairs(where, path, 'SegmentationClass'))


def _pairs(where: Located, path: Path, masks: str) -> list[LabeledImage]:
    images = where.base / FOLDERS[where.layout][0]
    return listed_pairs(listed_names(path), images, where.base / masks, path)


def _benchmark(name: str, where: Located, train: list[LabeledImage]) -> SegmentationBenchmark:
    val = _pairs(where, where.base / FOLDERS[where.layout][1] / 'val.txt', 'SegmentationClass')
    return SegmentationBenchmark(name, CLASSES, train, val, LabelReader(identity(len(CLASSES))), 0)


# --- boxes -----------------------------------------------------------------------------------------------------------------


def boxes_guide(year: str) -> Guide:
    """Layout of the detection part of VOC of a year."""
    folder = f'VOC{year}'
    return Guide(
        ('.', folder, f'VOCdevkit/{folder}', f'{folder}/VOCdevkit/{folder}', f'voc/VOCdevkit/{folder}'),
        {'devkit': ('JPEGImages', 'Annotations', 'ImageSets/Main/trainval.txt')},
        f'VOCdevkit/{folder}/{{JPEGImages,Annotations}}, VOCdevkit/{folder}/ImageSets/Main/trainval.txt',
        f'host.robots.ox.ac.uk/pascal/VOC/voc{year}',
    )


def open_voc_boxes(name: str, year: str, root: str) -> BoxBenchmark:
    """Annotated boxes of the ``trainval`` images of a year, as for CorLoc: all objects, hard ones marked.

    Raises:
        LayoutError: Parts are missing.
        ValueError: The list has names of another year.
        FileNotFoundError, ValueError: See ``require`` and ``listed_names``; for items, see :func:`read_voc_boxes`.
    """
    base = locate(name, root, boxes_guide(year)).base
    path, images, notes = base / 'ImageSets/Main/trainval.txt', base / 'JPEGImages', base / 'Annotations'
    names, pictures, files = listed_names(path), files_by_name(images), files_by_name(notes, ('.xml',))
    others = [each for each in names if not NAMES[year].fullmatch(each)]
    if others:
        raise ValueError(f'{name}: {printable(path)} is not of {year}: it lists {some_of(others)}')
    require(names, pictures, 'image', images, path)
    require(names, files, 'annotation', notes, path)
    return BoxBenchmark(name, Lazy([(each, pictures[each], files[each]) for each in names], read_voc_boxes))


def read_voc_boxes(key: tuple[str, str, str]) -> BoxedImage:
    """The boxes of an image; ``key``: its name, the image and the annotation.

    Files count pixels from 1 and include the last one; 1 is subtracted from the left and top, as in valeoai/LOST,
    ``datasets.py``. Fractions, which a few annotations of 2012 have, are cut off.

    Raises:
        ValueError: The file is broken, or a box has no area; names the file.
    """
    name, image, path = key
    try:
        objects = ElementTree.parse(path).getroot().findall('object')
    except (ElementTree.ParseError, OSError, LookupError, ValueError) as error:
        raise ValueError(f'annotation {printable(path)} cannot be read ({error})') from error
    boxes = torch.tensor([_box(each, path) for each in objects], dtype=torch.int64).reshape(-1, 4)
    difficult, truncated = (
        torch.tensor([_flag(each, flag, path) for each in objects], dtype=torch.bool) for flag in ('difficult', 'truncated')
    )
    return BoxedImage(name, image, boxes, difficult, truncated)


def _box(element: ElementTree.Element, path: str) -> tuple[int, int, int, int]:
    values = [element.findtext(f'bndbox/{side}') for side in ('xmin', 'ymin', 'xmax', 'ymax')]
    try:
        left, top, right, bottom = (int(float(value or '')) for value in values)
    except (ValueError, OverflowError) as error:
        raise ValueError(f'annotation {printable(path)}: bndbox {values} must be four numbers') from error
    if right < left or bottom < top:
        raise ValueError(f'annotation {printable(path)}: bndbox {[left, top, right, bottom]} must be xmin, ymin, xmax, ymax')
    return left - 1, top - 1, right, bottom


def _flag(element: ElementTree.Element, name: str, path: str) -> bool:
    """A mark of an object; not set if absent, as in some annotations of 2012."""
    text = (element.findtext(name) or '0').strip()
    if text not in ('0', '1'):
        raise ValueError(f'annotation {printable(path)}: {name} {text!r} must be 0 or 1')
    return text == '1'
