from mmadclr.datasets.image_dataset import ImageDataset, ShapesDataset, UnreadableImageError
from mmadclr.datasets.loading import EpochSampler, collate_samples
from mmadclr.datasets.transforms import MultiCrop, ResizeCentreCrop

__all__ = [
    'EpochSampler',
    'ImageDataset',
    'MultiCrop',
    'ResizeCentreCrop',
    'ShapesDataset',
    'UnreadableImageError',
    'collate_samples',
]
