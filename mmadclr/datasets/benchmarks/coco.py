"""COCO 2017 label maps: 15 coarse stuff classes, 12 coarse things, and 80 objects with background.

Coarse classes as in Leopart, NeCo and open-hummingbird-eval (``hbird/data/coco/coco_data.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmadclr.datasets.benchmarks.coco_categories import (
    OTHER,
    PANOPTIC_STUFF,
    STUFF_CLASSES,
    THING_CLASSES,
    THING_NAMES,
    coarse_stuff,
    coarse_things,
)
from mmadclr.datasets.benchmarks.labels import LabelReader
from mmadclr.datasets.benchmarks.layouts import Guide, existing, locate
from mmadclr.datasets.benchmarks.listing import paired_folders
from mmadclr.datasets.benchmarks.panoptic import PanopticReader
from mmadclr.datasets.benchmarks.types import VOID, LabeledImage, SegmentationBenchmark

PLACES = ('.', 'coco', 'COCO', 'coco2017')
SPLITS = ('train2017', 'val2017')
IMAGES = 'images/{split}|{split}'
# Published instructions for both kinds of masks name this folder, so others come first.
SHARED = 'annotations/{split}'
# By layout: folders of masks.
STUFF_MASKS = {
    'pixelmaps': (
        'annotations/stuff_annotations/stuff_{split}_pixelmaps|annotations/stuff_{split}_pixelmaps|stuff_{split}_pixelmaps'
    ),
    'stuffthingmaps': 'stuffthingmaps/{split}|annotations/stuffthingmaps/{split}',
    'shared': SHARED,
}
SEMANTIC_MASKS = (
    'annotations/panoptic_annotations/semantic_segmentations_{split}|'
    # as spelled in the instructions of NeCo
    'annotations/panoptic_annotations/semantic_segmenations_{split}'
)
PANOPTIC_MASKS = 'annotations/panoptic_{split}|annotations/panoptic_annotations/panoptic_{split}|panoptic_{split}'
PANOPTIC_FILES = PANOPTIC_MASKS.replace('{split}', '{split}.json')


def _for_splits(*parts: str) -> tuple[str, ...]:
    return tuple(part.format(split=split) for part in parts for split in SPLITS)


STUFF_GUIDE = Guide(
    PLACES,
    {layout: _for_splits(IMAGES, masks) for layout, masks in STUFF_MASKS.items()},
    'images/{train,val}2017, stuffthingmaps/{train,val}2017 '
    'or annotations/stuff_annotations/stuff_{train,val}2017_pixelmaps',
    'cocodataset.org ({train,val}2017.zip, stuff_annotations_trainval2017.zip) or github.com/nightrome/cocostuff '
    '(stuffthingmaps_trainval2017.zip)',
)
PANOPTIC_GUIDE = Guide(
    PLACES,
    {
        'semantic': _for_splits(IMAGES, SEMANTIC_MASKS),
        'panoptic': _for_splits(IMAGES, PANOPTIC_MASKS, PANOPTIC_FILES),
        'shared': _for_splits(IMAGES, SHARED),
    },
    'images/{train,val}2017, annotations/panoptic_{train,val}2017, annotations/panoptic_{train,val}2017.json '
    'or annotations/panoptic_annotations/semantic_segmentations_{train,val}2017',
    'cocodataset.org ({train,val}2017.zip, panoptic_annotations_trainval2017.zip and the archives in it)',
)
PIXELMAPS_HINT = 'the pixel maps of the stuff challenge have 92 to 182, 183 for other, and 0'
MAPS_HINT = 'stuff and thing maps have 0 to 181 and 255; semantic masks made from panoptic ones belong elsewhere'
PANOPTIC_HINT = 'semantic masks made from panoptic ones have the 133 panoptic ids and 0; stuffthingmaps belong elsewhere'


def stuff_meaning(layout: str) -> dict[int, int]:
    """Coarse class of every label of the two kinds of masks; things and "other" are ignored."""
    coarse = coarse_stuff()
    if layout == 'pixelmaps':
        return {0: VOID, OTHER: VOID, **coarse}
    return {**dict.fromkeys((*range(91), VOID), VOID), **{category - 1: label for category, label in coarse.items()}}


def open_coco_stuff(root: str) -> SegmentationBenchmark:
    """COCO-Stuff, 15 coarse classes; things and "other" are ignored. 118,287 and 5,000 images, fewer with pixel maps.

    Raises:
        LayoutError: Parts are missing.
        FileNotFoundError, ValueError: See ``paired_folders``.
    """
    base, layout = locate('coco_stuff', root, STUFF_GUIDE)
    train, val = _splits(base, STUFF_MASKS[layout], some=layout == 'pixelmaps')  # images without stuff have none
    reader = LabelReader(stuff_meaning(layout), PIXELMAPS_HINT if layout == 'pixelmaps' else MAPS_HINT)
    return SegmentationBenchmark('coco_stuff', STUFF_CLASSES, train, val, reader, None)


def open_coco_thing(root: str) -> SegmentationBenchmark:
    """COCO-Things, 12 coarse classes, from panoptic annotations; stuff and unlabeled pixels are ignored.

    Raises:
        LayoutError: Parts are missing.
        FileNotFoundError, ValueError: See ``paired_folders``.
    """
    meaning = {0: VOID, **dict.fromkeys(PANOPTIC_STUFF, VOID), **coarse_things()}
    return _from_panoptic('coco_thing', root, THING_CLASSES, meaning, None)


def open_coco_objects(root: str) -> SegmentationBenchmark:
    """The 80 things of panoptic annotations as classes 1 to 80; stuff is class 0, background, and unlabeled pixels are
    ignored.

    Raises:
        LayoutError: Parts are missing.
        FileNotFoundError, ValueError: See ``paired_folders``.
    """
    things = {category: label for label, category in enumerate(THING_NAMES, start=1)}
    meaning = {0: VOID, **dict.fromkeys(PANOPTIC_STUFF, 0), **things}
    return _from_panoptic('coco_objects', root, ('background', *THING_NAMES.values()), meaning, 0)


def _from_panoptic(
    name: str, root: str, classes: tuple[str, ...], meaning: Mapping[int, int], background: int | None
) -> SegmentationBenchmark:
    base, layout = locate(name, root, PANOPTIC_GUIDE)
    if layout != 'panoptic':
        train, val = _splits(base, SEMANTIC_MASKS if layout == 'semantic' else SHARED)
        return SegmentationBenchmark(name, classes, train, val, LabelReader(meaning, PANOPTIC_HINT), background)
    train, val = _splits(base, PANOPTIC_MASKS)
    files = {
        str(existing(base, PANOPTIC_MASKS.format(split=split))): str(existing(base, PANOPTIC_FILES.format(split=split)))
        for split in SPLITS
    }
    return SegmentationBenchmark(name, classes, train, val, PanopticReader(files, meaning), background)


def _splits(base: Path, masks: str, some: bool = False) -> tuple[list[LabeledImage], list[LabeledImage]]:
    train, val = (
        paired_folders(
            existing(base, IMAGES.format(split=split)) or base, existing(base, masks.format(split=split)) or base, some=some
        )
        for split in SPLITS
    )
    return train, val
