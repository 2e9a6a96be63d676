"""Deterministic views of evaluation images: functions of the pixels, a seed and the index of the image.

Shape legend: S side in pixels, P patches along a side, n patches that are kept of an image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from mmadclr.datasets.transforms import random_resized_box


class Views(NamedTuple):
    """What is drawn for an image.

    ``seed``: of all draws. ``area``: range of the crop, as a fraction of the image. ``color``: brightness, contrast and
    saturation are multiplied by factors between 1 - color and 1 + color. ``patches``: number of patches that are kept.
    """

    seed: int = 0
    area: tuple[float, float] = (0.15, 0.4)
    color: float = 0.3
    patches: int = 8


VIEWS = Views()


def drawn_crop(image: Tensor, index: int, views: Views = VIEWS) -> Tensor:
    """A crop of an image (3, S, S) uint8 in changed colors, resized to (3, S, S); mirrored with probability 1/2."""
    rng = _generator(views.seed, index, 0)
    height, width = image.shape[-2:]
    left, top, right, bottom = random_resized_box(rng, (0, 0, width, height), views.area)
    crop = TF.resized_crop(
        image, top, left, bottom - top, right - left, [height, width], InterpolationMode.BICUBIC, antialias=True
    )
    crop = _recolored(crop, rng, views.color)
    return TF.horizontal_flip(crop) if rng.random() < 0.5 else crop


def mirrored(image: Tensor, index: int, views: Views = VIEWS) -> Tensor:
    """The mirror image of (3, S, S) uint8, left and right exchanged, in changed colors."""
    return _recolored(TF.horizontal_flip(image), _generator(views.seed, index, 1), views.color)


def drawn_patches(index: int, side: int, views: Views = VIEWS) -> tuple[Tensor, Tensor]:
    """Numbers (n,) of patches drawn without repetition from a grid of ``side`` x ``side``, and of the same places in the
    mirror image; n is at most the number of patches.
    """
    chosen = _generator(views.seed, index, 2).permutation(side * side)[: views.patches]
    rows, columns = np.divmod(chosen, side)
    return torch.from_numpy(chosen), torch.from_numpy(rows * side + side - 1 - columns)


def _recolored(image: Tensor, rng: np.random.Generator, strength: float) -> Tensor:
    for change in (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation):
        image = change(image, float(rng.uniform(1 - strength, 1 + strength)))
    return image


def _generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)
