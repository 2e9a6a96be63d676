"""The generated shapes as a detection set of mmdet and a segmentation set of mmseg, drawn on first use.

Functions, not classes, so that the packages are imported only when a config asks for them.
"""

from __future__ import annotations

from mmengine.dist import barrier, is_main_process
from torch.utils.data import Dataset

from mmadclr.datasets.shapes import CLASSES, write_shapes
from mmadclr.registry import DATASETS

DRAWN = dict(num_train=3000, num_val=1000, image_size=64, draw_seed=0)


@DATASETS.register_module(name='ShapesDetection')
def shapes_detection(data_root: str, split: str, **kwargs) -> Dataset:
    """``mmdet.CocoDataset`` over the objects of a split; what to draw, and the arguments of that class, in ``kwargs``."""
    from mmdet.datasets import CocoDataset

    _draw(data_root, kwargs)
    return CocoDataset(
        data_root=data_root,
        ann_file=f'annotations/instances_{split}.json',
        data_prefix=dict(img=f'{split}/'),
        metainfo=dict(classes=tuple(kind.name for kind in CLASSES)),
        **kwargs,
    )


@DATASETS.register_module(name='ShapesSegmentation')
def shapes_segmentation(data_root: str, split: str, **kwargs) -> Dataset:
    """``mmseg.BaseSegDataset`` over background and classes of a split; ``kwargs`` as above."""
    from mmseg.datasets import BaseSegDataset

    _draw(data_root, kwargs)
    return BaseSegDataset(
        data_root=data_root,
        data_prefix=dict(img_path=split, seg_map_path=f'semantic/{split}'),
        img_suffix='.png',
        seg_map_suffix='.png',
        reduce_zero_label=False,
        metainfo=dict(classes=('background', *(kind.name for kind in CLASSES))),
        **kwargs,
    )


def _draw(data_root: str, kwargs: dict) -> None:
    """Draws the set, and takes what concerns drawing out of ``kwargs``."""
    num_train, num_val, image_size, draw_seed = (kwargs.pop(name, default) for name, default in DRAWN.items())
    if is_main_process():
        write_shapes(data_root, num_train, num_val, image_size, draw_seed)
    barrier()
