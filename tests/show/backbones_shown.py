"""Small random backbones and pictures for tests of ``mmadclr.show``."""

import numpy as np
import torch
from PIL import Image

from mmadclr.models.backbones.feature_vit import FeatureViT

SIZES = dict(embed_dim=24, depth=3, num_heads=3, patch_size=8)


def backbone(seed=0, **settings):
    """Random weights with outputs that depend on pixels and positions; sizes, and arguments of ``QueryViT``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        arch = {name: settings.pop(name, size) for name, size in SIZES.items()}
        model = FeatureViT(arch, **dict(img_size=32, init='xavier') | settings)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def picture(width=48, height=32, seed=0):
    """A blurred random image."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
