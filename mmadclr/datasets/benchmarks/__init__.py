"""Dense benchmarks as they are distributed: each name opens one data set in its published layouts.

Opening lists files only; images, masks and annotations are read one at a time, when they are used.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from mmadclr.datasets.benchmarks.ade20k import GUIDE as ADE20K
from mmadclr.datasets.benchmarks.ade20k import open_ade20k, open_ade20k_151
from mmadclr.datasets.benchmarks.cityscapes import GUIDE as CITYSCAPES
from mmadclr.datasets.benchmarks.cityscapes import open_cityscapes
from mmadclr.datasets.benchmarks.coco import (
    PANOPTIC_GUIDE,
    STUFF_GUIDE,
    open_coco_objects,
    open_coco_stuff,
    open_coco_thing,
)
from mmadclr.datasets.benchmarks.coco20k import GUIDE as COCO20K
from mmadclr.datasets.benchmarks.coco20k import open_coco20k
from mmadclr.datasets.benchmarks.davis import GUIDE as DAVIS
from mmadclr.datasets.benchmarks.davis import open_davis
from mmadclr.datasets.benchmarks.folder import GUIDE as FOLDER
from mmadclr.datasets.benchmarks.folder import open_folder
from mmadclr.datasets.benchmarks.labels import AbsentClasses, absent_classes
from mmadclr.datasets.benchmarks.layouts import Guide, LayoutError
from mmadclr.datasets.benchmarks.spair import GUIDE as SPAIR
from mmadclr.datasets.benchmarks.spair import open_spair
from mmadclr.datasets.benchmarks.types import (
    VOID,
    Benchmark,
    BoxBenchmark,
    BoxedImage,
    LabeledImage,
    PairBenchmark,
    PointPair,
    SegmentationBenchmark,
    Video,
    VideoBenchmark,
)
from mmadclr.datasets.benchmarks.voc import GUIDE as VOC
from mmadclr.datasets.benchmarks.voc import boxes_guide, open_voc, open_voc_boxes, open_voc_train

Kind = Literal['segmentation', 'video', 'pairs', 'boxes']


class Reader(NamedTuple):
    """``kind``: of the benchmark. ``open``: opens it below a folder. ``guide``: expected files and their source."""

    kind: Kind
    open: Callable[[str], Benchmark]
    guide: Guide


BENCHMARKS: dict[str, Reader] = {
    'voc': Reader('segmentation', open_voc, VOC),
    'voc_train': Reader('segmentation', open_voc_train, VOC),
    'ade20k': Reader('segmentation', open_ade20k, ADE20K),
    'ade20k_151': Reader('segmentation', open_ade20k_151, ADE20K),
    'cityscapes': Reader('segmentation', open_cityscapes, CITYSCAPES),
    'coco_stuff': Reader('segmentation', open_coco_stuff, STUFF_GUIDE),
    'coco_thing': Reader('segmentation', open_coco_thing, PANOPTIC_GUIDE),
    'coco_objects': Reader('segmentation', open_coco_objects, PANOPTIC_GUIDE),
    'davis': Reader('video', open_davis, DAVIS),
    'spair': Reader('pairs', open_spair, SPAIR),
    'voc07': Reader('boxes', partial(open_voc_boxes, 'voc07', '2007'), boxes_guide('2007')),
    'voc12': Reader('boxes', partial(open_voc_boxes, 'voc12', '2012'), boxes_guide('2012')),
    'coco20k': Reader('boxes', open_coco20k, COCO20K),
    'folder': Reader('segmentation', open_folder, FOLDER),
}


def open_benchmark(name: str, root: str) -> Benchmark:
    """Opens a benchmark after checking its layout; no image or mask is read (``folder`` without ``classes.txt`` excepted).

    Args:
        name: A key of ``BENCHMARKS``; after a colon there may be a name of one's own, as in ``folder:aerial``.
        root: Folder of the data set, or one above it that holds several data sets under their usual names.

    Raises:
        ValueError: Unknown name.
        LayoutError: Parts of the data set are missing; names all of them, the expected tree and the source.
        FileNotFoundError, ValueError: Files do not fit together; see the reader.
    """
    return _reader(name).open(root)


def benchmark_kind(name: str) -> Kind:
    """The kind of a benchmark.

    Raises:
        ValueError: Unknown name.
    """
    return _reader(name).kind


def _reader(name: str) -> Reader:
    name = name.partition(':')[0]
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    close = difflib.get_close_matches(name, BENCHMARKS, n=1)
    meant = f' (did you mean {close[0]}?)' if close else ''
    raise ValueError(f'no benchmark is called {name!r}{meant}; known: {", ".join(BENCHMARKS)}')


__all__ = [
    'BENCHMARKS',
    'VOID',
    'AbsentClasses',
    'Benchmark',
    'BoxBenchmark',
    'BoxedImage',
    'Guide',
    'Kind',
    'LabeledImage',
    'LayoutError',
    'PairBenchmark',
    'PointPair',
    'Reader',
    'SegmentationBenchmark',
    'Video',
    'VideoBenchmark',
    'absent_classes',
    'benchmark_kind',
    'open_benchmark',
]
