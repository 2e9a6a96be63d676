"""A backbone in three lines.

from mmadclr import load_backbone
model, transform = load_backbone('checkpoint.pth')
output = model(transform(image)[None])  # output.cls (1, D), output.patches (1, N, D)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from mmadclr.checkpoint.opening import open_backbone
from mmadclr.models.backbones.feature_vit import FeatureViT


def load_backbone(
    checkpoint: str | Path, device: str | torch.device = 'cpu', size: int | None = None, **kwargs
) -> tuple[FeatureViT, Callable[[Image.Image], Tensor]]:
    """The frozen backbone of a checkpoint and the transform its images want.

    Args:
        checkpoint: A file of ours or in one of the layouts of :mod:`mmadclr.checkpoint.layouts`.
        device: Where the model goes.
        size: Side of the transformed images; that of pretraining by default. The model takes images of any size.
        **kwargs: ``which`` ('teacher' or 'student'), ``num_heads``, ``prefix``; see
            :func:`mmadclr.checkpoint.opening.open_backbone`.

    Returns:
        The model, which maps (B, 3, H, W) to ``cls`` (B, D) and ``patches`` (B, N, D), both final-normed, and a transform
        from a PIL image to a normalised tensor (3, size, size): short side resized to 8/7 of ``size`` (bicubic), centre crop.

    Raises:
        FileNotFoundError, ValueError: See ``open_backbone``.
    """
    opened = open_backbone(checkpoint, **kwargs)
    size = size or min(opened.img_size)
    return opened.model.to(device), evaluation_transform(size, opened.mean, opened.std)


def evaluation_transform(
    size: int, mean: tuple[float, ...], std: tuple[float, ...], resize: int | None = None
) -> Callable[[Image.Image], Tensor]:
    """PIL image of any mode and size -> (3, size, size), normalised; ``resize``: short side before the crop."""
    return v2.Compose(
        [
            v2.RGB(),
            v2.Resize(resize or round(size * 8 / 7), v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(size),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
        ]
    )
