"""Cityscapes: fine annotations, 19 classes.

Cordts et al., *The Cityscapes dataset for semantic urban scene understanding*, CVPR 2016. Labels of the classes: mcordts/
cityscapesScripts, ``cityscapesscripts/helpers/labels.py``.
"""

from __future__ import annotations

from mmadclr.datasets.benchmarks.labels import LabelReader
from mmadclr.datasets.benchmarks.layouts import Guide, locate
from mmadclr.datasets.benchmarks.listing import paired_folders
from mmadclr.datasets.benchmarks.types import VOID, SegmentationBenchmark

LABELS = {
    **{7: 'road', 8: 'sidewalk', 11: 'building', 12: 'wall', 13: 'fence', 17: 'pole', 19: 'traffic light'},
    **{20: 'traffic sign', 21: 'vegetation', 22: 'terrain', 23: 'sky', 24: 'person', 25: 'rider', 26: 'car', 27: 'truck'},
    **{28: 'bus', 31: 'train', 32: 'motorcycle', 33: 'bicycle'},
}
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
    train, val = (
        paired_folders(base / 'leftImg8bit' / split, base / 'gtFine' / split, ENDINGS, deep=True)
        for split in ('train', 'val')
    )
    # -1, the license plate, is stored as 255.
    meaning = dict.fromkeys((*range(NUM_LABELS), VOID), VOID) | {label: index for index, label in enumerate(LABELS)}
    return SegmentationBenchmark('cityscapes', tuple(LABELS.values()), train, val, LabelReader(meaning), None)
