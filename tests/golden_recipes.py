"""Golden files of DINO's augmentation with other arguments and another picture, by Pillow and torchvision themselves."""

from __future__ import annotations

import numpy as np
import torchvision.transforms.functional as TF
from PIL import Image, ImageFilter, ImageOps

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def dino_augment() -> dict:
    """The operations of facebookresearch/dino, ``main_dino.py: DataAugmentationDINO``, for other scales and counts."""
    arguments = dict(global_crops_scale=[0.3, 0.8], local_crops_scale=[0.1, 0.2], local_crops_number=5)

    def view(size: int, scale: list[float], blur: float, solarized: float = 0.0) -> list[dict]:
        color = dict(brightness_range=[0.6, 1.4], contrast_range=[0.6, 1.4], saturation_range=[0.8, 1.2])
        jitter = dict(op='ColorJitter', **color, hue_range=[-0.1, 0.1])
        solarization = [dict(op='Solarization', p=solarized, threshold=128)] if solarized else []
        return [
            dict(op='RandomResizedCrop', size=[size] * 2, scale=scale, ratio=[3 / 4, 4 / 3], interpolation='bicubic'),
            dict(op='RandomHorizontalFlip', p=0.5),
            dict(op='RandomApply', p=0.8, of=[jitter]),
            dict(op='RandomGrayscale', p=0.2),
            dict(op='GaussianBlur', p=blur, radius_min=0.1, radius_max=2.0),
            *solarization,
            dict(op='ToTensor', scale_to='[0, 1], channels first'),
            dict(op='Normalize', mean=MEAN, std=STD),
        ]

    shares = arguments['global_crops_scale'], arguments['local_crops_scale']
    views = dict(global_1=view(224, shares[0], 1.0), global_2=view(224, shares[0], 0.1, 0.2), local=view(96, shares[1], 0.5))
    return dict(arguments=arguments, order_of_crops=['global_1', 'global_2', *['local'] * 5], **views)


def dino_augment_ops() -> dict:
    pixels = np.random.default_rng(3).integers(0, 256, (30, 44, 3), dtype=np.uint8)
    noise, smooth = (Image.fromarray(part) for part in (pixels, pixels[:5, :7]))
    picture = Image.blend(noise, smooth.resize(noise.size, Image.Resampling.BICUBIC), 0.6)
    found = {'image': picture, 'solarize/image': ImageOps.solarize(picture), 'gray/image': TF.to_grayscale(picture, 3)}
    found['flip/image'] = ImageOps.mirror(picture)
    for number, radius in enumerate((0.4, 1.3)):
        blurred = picture.filter(ImageFilter.GaussianBlur(radius))
        found |= {f'blur/{number}/radius': radius, f'blur/{number}/image': blurred}
    for number, (top, left, height, width, size) in enumerate(((1, 2, 20, 33, 18), (9, 10, 8, 6, 15))):
        crop = TF.resized_crop(picture, top, left, height, width, [size, size], TF.InterpolationMode.BICUBIC)
        found |= {f'resized_crop/{number}/top_left_height_width': [top, left, height, width]}
        found |= {f'resized_crop/{number}/size': size, f'resized_crop/{number}/image': crop}
    factors = dict(brightness=0.8, contrast=1.25, saturation=0.9, hue=0.05)
    colored = picture
    for name, factor in factors.items():
        colored = getattr(TF, f'adjust_{name}')(colored, factor)
    found |= {'jitter/brightness_contrast_saturation_hue': list(factors.values()), 'jitter/image': colored}
    values = (np.asarray(picture, dtype=np.float64) / 255 - MEAN) / STD
    return found | {'normalize/tensor': values.transpose(2, 0, 1).astype(np.float32)}
