"""Load a pretrained backbone in three lines.

model, transform = load_backbone('checkpoint.pth')
output = model(transform(image)[None])  # output.cls (1, D), output.patches (1, N, D)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from mmadclr.datasets.center_crop import MAX_RESIZED, short_side
from mmadclr.datasets.image_dataset import ImageDataset
from mmadclr.evaluation.extraction import Progress, feature_batches, in_order
from mmadclr.evaluation.extractor import FeatureExtractor
from mmadclr.evaluation.image_account import ImageAccount
from mmadclr.hub.opening import open_backbone
from mmadclr.models.backbones.feature_vit import FeatureViT


def load_backbone(
    checkpoint: str | Path, device: str | torch.device = 'cpu', size: int | None = None, **kwargs
) -> tuple[FeatureViT, Callable[[Image.Image], Tensor]]:
    """The frozen backbone of a checkpoint and the matching image transform.

    Args:
        checkpoint: A file or folder in our format or a layout of :mod:`mmadclr.checkpoint.layouts`.
        device: Device of the model.
        size: Side of the transformed images; that of pretraining by default. The model accepts images of any size.
        **kwargs: ``which`` ('teacher' or 'student'), ``prefix``, ``num_heads``; see
            :func:`mmadclr.hub.opening.open_backbone`.

    Returns:
        The model, which maps (B, 3, H, W) to ``cls`` (B, D) and ``patches`` (B, N, D), both final-normed; and a transform
        from a PIL image to a normalized tensor (3, size, size): short side resized to 8/7 of ``size`` (bicubic), center
        crop.

    Raises:
        FileNotFoundError, ValueError: See ``open_backbone``.
    """
    opened = open_backbone(checkpoint, **kwargs)
    size = size or min(opened.img_size)
    return opened.model.to(device), evaluation_transform(size, opened.mean, opened.std)


def evaluation_transform(
    size: int, mean: tuple[float, ...], std: tuple[float, ...], resize: int | None = None
) -> Callable[[Image.Image], Tensor]:
    """PIL image of any mode and size -> (3, size, size), normalized; ``resize``: short side before the crop."""
    return v2.Compose(
        [
            v2.RGB(),
            v2.Lambda(partial(_without_far_ends, resize=resize or short_side(size))),
            v2.Resize(resize or short_side(size), v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(size),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
        ]
    )


def _without_far_ends(image: Image.Image, resize: int) -> Image.Image:
    """Crops an elongated image whose resized version would have too many pixels; the center crop is unaffected."""
    width, height = image.size
    longest = max(MAX_RESIZED // resize**2, 4) * min(width, height)
    left, top = (max(side - longest, 0) // 2 for side in (width, height))
    return image.crop((left, top, width - left, height - top)) if left or top else image


class ExtractedFeatures(NamedTuple):
    """Features of the images in a folder, on the CPU, in path order.

    ``paths``: (N) of the readable images. ``cls``: (N, D); None without class token. ``patches``: (N, P, D), in raster
    order; None if not requested. Both final-normed. ``unreadable``: a message for every other image.
    """

    paths: list[Path]
    cls: Tensor | None
    patches: Tensor | None
    unreadable: list[str]


def extract_features(
    folder: str | Path,
    checkpoint: str | Path,
    patches: bool = False,
    device: str | torch.device = 'cpu',
    size: int | None = None,
    resize: int | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    max_unreadable: int = 100,
    value_range: tuple[float, float] | None = None,
    bands: tuple[int, int, int] | None = None,
    max_pixels: int | None = None,
    read: str = 'pillow',
    precision: str = 'fp32',
    **kwargs,
) -> ExtractedFeatures:
    """Features of all images in a folder and its subfolders, without labels.

    Args:
        folder: Folder of images.
        checkpoint, **kwargs: See :func:`load_backbone`.
        patches: Also return patch features, N * P * D * 4 bytes.
        device: Device of the model.
        size, resize: Side of the center crop, and short side of the image before it; see :func:`load_backbone`.
        batch_size, num_workers: Of the data loader.
        max_unreadable: Raise an error if more images cannot be read; otherwise they are logged and listed.
        value_range, bands, max_pixels: Interpretation of pixels; see :class:`mmadclr.datasets.pixels.PixelOptions`.
        read: ``'pillow'`` for the exact pixels of the transform of :func:`load_backbone`, or ``'fast'``; see
            ``ResizeCenterCrop``.
        precision: ``'fp32'``, or ``'bf16'`` for autocast.

    Raises:
        FileNotFoundError, ValueError: The folder has no images, the checkpoint cannot be used, or the backbone has no class
            token and ``patches`` is False.
        UnreadableImageError: Too many images cannot be read.
    """
    opened = open_backbone(checkpoint, **kwargs)
    has_cls = opened.model.cls_token is not None
    if not (has_cls or patches):
        raise ValueError(f'{checkpoint}: the backbone has no class token; set patches=True')
    kind, features = (_TokenExtractor, 'mean') if patches else (FeatureExtractor, 'cls')
    model = kind(opened, features, precision).to(device)
    size = size or min(opened.img_size)
    transform = dict(type='ResizeCenterCrop', resize=resize or short_side(size), size=size, backend=read)
    dataset = ImageDataset(str(folder), transform, value_range=value_range, bands=bands, max_pixels=max_pixels)
    account, asked = ImageAccount(), np.arange(len(dataset))
    batches = feature_batches(model, in_order(dataset, asked, batch_size, num_workers), asked)
    batches = account.over(Progress(len(dataset), folder).over(batches))
    found = [(batch.outputs.cpu(), batch.indices.tolist()) for batch in batches]
    unreadable = account.report(dataset, max_unreadable)
    paths = [dataset.path(index) for _, indices in found for index in indices]
    tokens = torch.cat([outputs for outputs, _ in found])
    if not patches:
        return ExtractedFeatures(paths, tokens, None, unreadable)
    return ExtractedFeatures(paths, tokens[:, 0] if has_cls else None, tokens[:, int(has_cls) :], unreadable)


class _TokenExtractor(FeatureExtractor):
    """(B, 3, H, W) -> [CLS], if there is one, and patches (B, 1 + P, D)."""

    def _encode(self, images: Tensor, mode: str) -> Tensor:
        output = self.backbone(images)
        return output.patches if output.cls is None else torch.cat((output.cls[:, None], output.patches), dim=1)
