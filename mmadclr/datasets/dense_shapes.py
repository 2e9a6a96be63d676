"""The generated images as mmdet detection set and mmseg segmentation set, drawn on first use.

Functions rather than classes, so that the packages are imported only when a config requests them.
"""

from __future__ import annotations

from torch.utils.data import Dataset

from mmadclr.datasets.scenes import write_scenes
from mmadclr.datasets.shapes import CLASSES, write_shapes
from mmadclr.registry import DATASETS


@DATASETS.register_module(name='ScenesDetection')
def scenes_detection(
    data_root: str,
    split: str,
    num_train: int = 1500,
    num_val: int = 300,
    image_size: int = 96,
    draw_seed: int = 0,
    **kwargs,
) -> Dataset:
    """``mmdet.CocoDataset`` over a split of the generated scenes; ``kwargs`` are arguments of that class."""
    from mmdet.datasets import CocoDataset

    write_scenes(data_root, num_train, num_val, image_size, draw_seed)
    return CocoDataset(
        data_root=data_root,
        ann_file=f'annotations/instances_{split}.json',
        data_prefix=dict(img=f'{split}/'),
        metainfo=dict(classes=tuple(kind.name for kind in CLASSES)),
        **kwargs,
    )


@DATASETS.register_module(name='ShapesSegmentation')
def shapes_segmentation(
    data_root: str,
    split: str,
    num_train: int = 3000,
    num_val: int = 1000,
    image_size: int = 64,
    draw_seed: int = 0,
    **kwargs,
) -> Dataset:
    """``mmseg.BaseSegDataset`` over background and classes of a split of the generated shapes; ``kwargs`` as above."""
    from mmseg.datasets import BaseSegDataset

    write_shapes(data_root, num_train, num_val, image_size, draw_seed)
    return BaseSegDataset(
        data_root=data_root,
        data_prefix=dict(img_path=split, seg_map_path=f'semantic/{split}'),
        img_suffix='.png',
        seg_map_suffix='.png',
        reduce_zero_label=False,
        metainfo=dict(classes=('background', *(kind.name for kind in CLASSES))),
        **kwargs,
    )
