"""Network inputs of the protocols: how an image and its label map are resized, normalized and augmented.

Shape legend: H x W pixels of an image, S side of a square input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import ColorJitter, InterpolationMode, RandomApply, RandomResizedCrop
from torchvision.transforms import functional as TF

from mmadclr.datasets.any_image import DecodeError
from mmadclr.datasets.benchmarks.types import LabeledImage, SegmentationBenchmark
from mmadclr.datasets.decoding import load_rgb, said

RESIZES = {'bilinear': Image.Resampling.BILINEAR, 'bicubic': Image.Resampling.BICUBIC}
JITTER = 0.1
HUMMINGBIRD_AREA, NECO_AREA, ASPECT = [0.5, 2.0], [0.8, 1.0], [3 / 4, 4 / 3]


class Form(NamedTuple):
    """A square network input of ``size`` pixels, aspect ratio not kept, resized by Pillow and normalized."""

    size: int
    resize: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_image(path: str) -> Image.Image:
    """An RGB image.

    Raises:
        ValueError: It cannot be read; names the file.
        FileNotFoundError: It does not exist.
    """
    try:
        return load_rgb(path)
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, DecodeError) as error:
        reason = 'not an image' if isinstance(error, UnidentifiedImageError) else said(error)  # which names an object
        raise ValueError(f'image {path} cannot be read ({reason})') from error


def normalized(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(3, H, W) of 8-bit RGB pixels (H, W, 3), as ``ToTensor`` and ``Normalize`` of torchvision."""
    values = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255
    return (values - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def square_input(image: Image.Image, form: Form) -> Tensor:
    """(3, S, S) network input."""
    resized = image.resize((form.size, form.size), RESIZES[form.resize])
    return normalized(np.asarray(resized), form.mean, form.std)


def labels_by_pillow(labels: np.ndarray, size: int) -> Tensor:
    """(S, S) uint8 label map resized by Pillow's nearest interpolation, which rounds differently from torch's."""
    return torch.from_numpy(np.array(Image.fromarray(labels).resize((size, size), Image.Resampling.NEAREST)))


def labels_by_torch(labels: np.ndarray, size: int) -> Tensor:
    """(S, S) uint8 label map resized by torch's nearest interpolation."""
    return F.interpolate(torch.from_numpy(labels)[None, None].float(), size=(size, size), mode='nearest')[0, 0].to(
        torch.uint8
    )


LABELS: dict[str, Callable[[np.ndarray, int], Tensor]] = {
    'labels_by_pillow': labels_by_pillow,
    'labels_by_torch': labels_by_torch,
}


def read_labels(benchmark: SegmentationBenchmark, item: LabeledImage, size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 label map of an item.

    Args:
        benchmark, item: See there.
        size: Height and width of the image.

    Raises:
        ValueError: Another size than the image; see ``SegmentationBenchmark.read_labels``.
    """
    labels = benchmark.read_labels(item)
    if labels.shape != size:
        raise ValueError(
            f'{item.mask}: {labels.shape[1]} x {labels.shape[0]} pixels, but its image {item.image} has {size[1]} x '
            f'{size[0]}: sizes must be the same'
        )
    return labels


class HummingbirdAugmentation:
    """Color jitter of the full image, then one crop of image and label map, at ``form.size`` pixels.

    Source: ``hbird/utils/transforms.py`` of vpariza/open-hummingbird-eval: each jitter with probability .5, in fixed order;
    crops of .5 to 2 times the area, resized bilinearly after normalization; no flip. Areas above the image cannot be met:
    after ten tries the center of the image is used.

    Args:
        form: Input; its ``resize`` must be bilinear.
    """

    def __init__(self, form: Form) -> None:
        self.form = form
        strengths = ('brightness', 'contrast', 'saturation', 'hue')
        self.jitters = [RandomApply([ColorJitter(**{name: JITTER})], p=0.5) for name in strengths]

    def __call__(self, image: Image.Image, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Input (3, S, S) and label map (S, S), from torch's global generator."""
        for jitter in self.jitters:
            image = jitter(image)
        top, left, height, width = RandomResizedCrop.get_params(image, HUMMINGBIRD_AREA, ASPECT)
        pixels = normalized(np.asarray(image), self.form.mean, self.form.std)
        size = [self.form.size] * 2
        crop = TF.resized_crop(pixels, top, left, height, width, size, InterpolationMode.BILINEAR, antialias=True)
        return crop, labels_by_torch(np.ascontiguousarray(labels[top : top + height, left : left + width]), self.form.size)


class NecoAugmentation:
    """A crop of .8 to 1 of the area, and a flip with probability .5, of image and label map.

    Source: ``src/linear_finetuning_transforms.py`` of vpariza/NeCo.
    """

    def __init__(self, form: Form) -> None:
        self.form = form

    def __call__(self, image: Image.Image, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Input (3, S, S) and label map (S, S), from torch's global generator."""
        top, left, height, width = RandomResizedCrop.get_params(image, NECO_AREA, ASPECT)
        box = (left, top, left + width, top + height)
        size = (self.form.size, self.form.size)
        pixels = image.crop(box).resize(size, RESIZES[self.form.resize])
        crop = normalized(np.asarray(pixels), self.form.mean, self.form.std)
        small = labels_by_pillow(np.ascontiguousarray(labels[top : top + height, left : left + width]), self.form.size)
        return (crop.flip(-1), small.flip(-1)) if torch.rand(()) < 0.5 else (crop, small)
