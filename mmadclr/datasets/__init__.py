from mmadclr.datasets.dense_shapes import scenes_detection, shapes_segmentation
from mmadclr.datasets.image_dataset import ImageDataset, ShapesDataset, UnreadableImageError
from mmadclr.datasets.loading import EpochSampler, collate_samples
from mmadclr.datasets.masked_images import MaskedImageDataset, ResizeSquare
from mmadclr.datasets.transforms import MultiCrop, ResizeCentreCrop

__all__ = [
    'EpochSampler',
    'ImageDataset',
    'MaskedImageDataset',
    'MultiCrop',
    'ResizeCentreCrop',
    'ResizeSquare',
    'ShapesDataset',
    'UnreadableImageError',
    'collate_samples',
    'scenes_detection',
    'shapes_segmentation',
]
