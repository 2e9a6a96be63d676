from mmadclr.datasets.center_crop import ResizeCenterCrop
from mmadclr.datasets.class_folders import ClassFolders
from mmadclr.datasets.dense_shapes import scenes_detection, shapes_segmentation
from mmadclr.datasets.image_dataset import ImageDataset, ShapesDataset, UnreadableImageError
from mmadclr.datasets.loading import collate_samples
from mmadclr.datasets.masked_images import MaskedImageDataset, ResizeSquare
from mmadclr.datasets.samplers import EpochSampler, ShardSampler
from mmadclr.datasets.sources import Source
from mmadclr.datasets.transforms import MultiCrop

__all__ = [
    'ClassFolders',
    'EpochSampler',
    'ImageDataset',
    'MaskedImageDataset',
    'MultiCrop',
    'ResizeCenterCrop',
    'ResizeSquare',
    'ShapesDataset',
    'ShardSampler',
    'Source',
    'UnreadableImageError',
    'collate_samples',
    'scenes_detection',
    'shapes_segmentation',
]
