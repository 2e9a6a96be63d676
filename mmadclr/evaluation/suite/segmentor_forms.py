"""Training crops and test images of segmentation heads, as pipelines of mmsegmentation compose them.

Source: open-mmlab/mmsegmentation, ``configs/_base_/datasets/ade20k.py`` and ``mmseg/datasets/transforms/transforms.py``, and
``mmcv/transforms/processing.py`` of open-mmlab/mmcv. Random numbers are drawn from torch's global generator.

Shape legend: H x W pixels of an image, S side of a crop.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmadclr.evaluation.dense.segmentation_scores import VOID
from mmadclr.evaluation.suite.forms import normalized

SCALES = (0.5, 2.0)
LONGEST = 4  # long side at most, in short sides: scale=(2048, 512)
TRIES = 10
BRIGHTNESS, FACTORS, HUE = 32.0, (0.5, 1.5), 18


class CropForm(NamedTuple):
    """``size``: S. ``most_of_class``: share of a class from which a crop is drawn again. ``mean``, ``std``: see ``Form``."""

    size: int
    most_of_class: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Distortion(NamedTuple):
    """Change of colors, None for none. ``brightness``: added. ``contrast``, ``saturation``: factors. ``hue``: added, in
    units of 2 degrees. ``contrast_first``: before saturation and hue, otherwise after them.
    """

    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: int | None = None
    contrast_first: bool = False


def resized_keeping_ratio(pixels: np.ndarray, sides: tuple[int, int], interpolation: int) -> np.ndarray:
    """Pixels (H, W, ...) as large as possible with at most these short and long sides.

    Like mmcv's ``imrescale``: OpenCV, not antialiased, sides rounded to the nearest integer.
    """
    height, width = pixels.shape[:2]
    factor = min(sides[0] / min(height, width), sides[1] / max(height, width))
    size = [max(int(side * factor + 0.5), 1) for side in (width, height)]
    return cv2.resize(pixels, size, interpolation=interpolation)


def both_resized(image: Image.Image, labels: np.ndarray, short: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and label map at the same size; see :func:`resized_keeping_ratio`."""
    sides = short, longest
    pixels = resized_keeping_ratio(np.asarray(image), sides, cv2.INTER_LINEAR)
    return pixels, resized_keeping_ratio(labels, sides, cv2.INTER_NEAREST)


def whole_input(image: Image.Image, form: CropForm) -> Tensor:
    """(3, H, W) of an image with short side S, aspect ratio kept."""
    pixels = resized_keeping_ratio(np.asarray(image), (form.size, LONGEST * form.size), cv2.INTER_LINEAR)
    return normalized(pixels, form.mean, form.std)


class SegmentorAugmentation:
    """Resize by a factor of .5 to 2, crop, flip with probability .5, photometric distortion; padded with 0 and ``VOID``."""

    def __init__(self, form: CropForm) -> None:
        self.form = form

    def __call__(self, image: Image.Image, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Input (3, S, S) and label map (S, S)."""
        size = self.form.size
        scale = uniform(*SCALES)
        pixels, small = both_resized(image, labels, int(size * scale), int(LONGEST * size * scale))
        top, left = crop_corner(small, size, self.form.most_of_class)
        pixels, small = (np.ascontiguousarray(x[top : top + size, left : left + size]) for x in (pixels, small))
        if torch.rand(()) < 0.5:
            pixels, small = (np.ascontiguousarray(x[:, ::-1]) for x in (pixels, small))
        return as_square(distorted(pixels, draw_distortion()), small, self.form)


def central_crop(image: Image.Image, labels: np.ndarray, form: CropForm) -> tuple[Tensor, Tensor]:
    """Input (3, S, S) and label map (S, S) without augmentation: short side S, cropped at the center."""
    pixels, small = both_resized(image, labels, form.size, LONGEST * form.size)
    top, left = (max(side - form.size, 0) // 2 for side in small.shape)
    pixels, small = (x[top : top + form.size, left : left + form.size] for x in (pixels, small))
    return as_square(pixels, small, form)


def as_square(pixels: np.ndarray, labels: np.ndarray, form: CropForm) -> tuple[Tensor, Tensor]:
    """Normalized, and padded to S x S at the right and bottom where smaller."""
    padding = (0, form.size - labels.shape[1], 0, form.size - labels.shape[0])
    crop = F.pad(normalized(pixels, form.mean, form.std), padding)
    return crop, F.pad(torch.from_numpy(np.ascontiguousarray(labels)), padding, value=VOID)


def crop_corner(labels: np.ndarray, size: int, most_of_class: float) -> tuple[int, int]:
    """Top and left of a random crop with at least two classes, none with a share of ``most_of_class`` or more.

    The last of ten tries is taken if none fulfills this.
    """
    top = left = 0
    for _ in range(TRIES + 1):
        top, left = (integer(0, max(side - size, 0) + 1) for side in labels.shape)
        counts = np.bincount(labels[top : top + size, left : left + size].ravel(), minlength=VOID + 1)[:VOID]
        if most_of_class >= 1 or ((counts > 0).sum() > 1 and counts.max() / counts.sum() < most_of_class):
            break
    return top, left


def draw_distortion() -> Distortion:
    """Each change with probability .5; contrast before or after the others."""
    brightness = uniform(-BRIGHTNESS, BRIGHTNESS) if coin() else None
    first = coin()
    contrast = uniform(*FACTORS) if coin() else None
    saturation = uniform(*FACTORS) if coin() else None
    hue = integer(-HUE, HUE) if coin() else None
    return Distortion(brightness, contrast, saturation, hue, first)


def distorted(pixels: np.ndarray, how: Distortion) -> np.ndarray:
    """RGB pixels (H, W, 3), uint8, after a distortion; clipped and truncated to integers after every change."""
    if how.brightness is not None:
        pixels = changed(pixels, beta=how.brightness)
    if how.contrast is not None and how.contrast_first:
        pixels = changed(pixels, how.contrast)
    if how.saturation is not None:
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        hsv[:, :, 1] = changed(hsv[:, :, 1], how.saturation)
        pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if how.hue is not None:
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        hsv[:, :, 0] = (hsv[:, :, 0].astype(int) + how.hue) % 180
        pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if how.contrast is not None and not how.contrast_first:
        pixels = changed(pixels, how.contrast)
    return pixels


def changed(values: np.ndarray, alpha: float = 1.0, beta: float = 0.0) -> np.ndarray:
    return np.clip(values.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)


def uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def integer(low: int, high: int) -> int:
    """At least ``low``, below ``high``."""
    return int(torch.randint(low, high, ()))


def coin() -> bool:
    return bool(torch.rand(()) < 0.5)
