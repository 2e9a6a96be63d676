"""Small backbones and folders of images for tests of measures."""

import numpy as np
import torch
from PIL import Image

from mmadclr.checkpoint.architecture import IMAGENET_MEAN, IMAGENET_STD
from mmadclr.datasets import ImageDataset
from mmadclr.hub.opening import OpenedBackbone
from mmadclr.models.backbones.feature_vit import FeatureViT

SIZES = dict(arch=dict(embed_dim=24, depth=2, num_heads=3, patch_size=8), img_size=32, init='xavier')


def paint_classes(root, count=24, classes=3, side=40):
    """Noisy images whose class is a color, in class folders; returns the folder."""
    rng = np.random.default_rng(0)
    for number in range(count):
        color = np.eye(3)[number % classes] * 80 + 60
        pixels = (
            color
            + rng.normal(0, 25, (side, side, 3))
            + rng.normal(0, 25, (side // 8, side // 8, 3)).repeat(8, 0).repeat(8, 1)
        )
        path = root / f'class{number % classes}' / f'{number:03d}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return root


def images_of(root, size=32, with_label=True):
    return ImageDataset(str(root), dict(type='mmadclr.ResizeCenterCrop', resize=size, size=size), with_label=with_label)


def small_backbone(seed=0, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = FeatureViT(**SIZES | settings)
        model.init_weights()
    return OpenedBackbone(model, SIZES | settings, (32, 32), IMAGENET_MEAN, IMAGENET_STD)


def paint_masks(root, train=12, val=7, side=32):
    """Noisy images of three colors in blocks, and masks of the blocks; returns both parts' settings of ``DenseProbe``."""
    rng = np.random.default_rng(0)
    for split, count in (('train', train), ('val', val)):
        for number in range(count):
            labels = rng.integers(0, 3, (4, 4)).repeat(side // 4, axis=0).repeat(side // 4, axis=1).astype(np.uint8)
            pixels = np.clip(np.eye(3)[labels] * 80 + 60 + rng.normal(0, 40, (side, side, 3)), 0, 255).astype(np.uint8)
            for folder, content in (('images', pixels), ('masks', labels)):
                path = root / folder / split / f'{number:02d}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(content).save(path)
    parts = [dict(img_dir=f'images/{split}', mask_dir=f'masks/{split}') for split in ('train', 'val')]
    return dict(data_root=str(root), size=side, num_classes=3) | parts[0], parts[1]
