"""Cityscapes: fine annotations, 19 classes.

Cordts et al., *The Cityscapes dataset for semantic urban scene understanding*, CVPR 2016. Labels of the classes: mcordts/
cityscapesScripts, ``cityscapesscripts/helpers/labels.py``.
"""

from __future__ import annotations

from mmadclr.datasets.benchmarks.labels import LabelReader
from mmadclr.datasets.benchmarks.layouts import Guide, locate
from mmadclr.datasets.benchmarks.listing import paired_folders
from mmadclr.datasets.benchmarks.types import VOID, SegmentationBenchmark

LABELS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CLASSES = (
    *(
        'road',
        'sidewalk',
        'building',
        'wall',
        'fence',
        'pole',
        'traffic light',
        'traffic sign',
        'vegetation',
        'terrain',
        'sky',
    ),
    *('person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle'),
)
NUM_LABELS = 34
ENDINGS = ('_leftImg8bit', '_gtFine_labelIds')
GUIDE = Guide(
    ('.', 'cityscapes', 'Cityscapes'),
    {'fine': ('leftImg8bit/train', 'leftImg8bit/val', 'gtFine/train', 'gtFine/val')},
    'leftImg8bit/{train,val}/<city>/*_leftImg8bit.png, gtFine/{train,val}/<city>/*_gtFine_labelIds.png',
    'www.cityscapes-dataset.com (leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip)',
)


def open_cityscapes(root: str) -> SegmentationBenchmark:
    """Cityscapes, 2,975 and 500 images: the 19 evaluated classes of ``*_gtFine_labelIds.png``; all others are ignored.

    Raises:
        LayoutError: Parts are missing.
        FileNotFoundError, ValueError: See ``paired_folders``.
    """
    base = locate('cityscapes', root, GUIDE).base
    splits = ('train', 'val')
    train, val = (paired_folders(base / 'leftImg8bit' / split, base / 'gtFine' / split, ENDINGS, True) for split in splits)
    # -1, the license plate, is stored as 255.
    meaning = dict.fromkeys((*range(NUM_LABELS), VOID), VOID) | {label: index for index, label in enumerate(LABELS)}
    return SegmentationBenchmark('cityscapes', CLASSES, train, val, LabelReader(meaning), None)
