"""Photometric augmentation of image batches in single precision, without rounding to integers.

The operations, their order and their clamping to [0, 255] are those of :mod:`.photometric_ops`, which reproduces Pillow's
8-bit arithmetic; here nothing is rounded, so an operation costs a few passes over the pixels. Functions take float tensors
(N, 3, H, W) in [0, 255], **may overwrite them**, and return the result; per-image parameters are tensors (N,).

Absolute difference from Pillow and torchvision in gray levels of 255 (mean / 99.9th percentile / maximum; bounds in the
tests), for single operations on generated 8-bit crops (soft shapes, noise), and for DINO's full recipes:

    brightness, contrast, saturation    0.5 / 1.1 / 1.1    Pillow truncates: half a level on average
    hue                                 0.5 / 8.8 / 16.2   Pillow has 256 hues, steps of up to 6 levels
    gray                                0.2 / 0.5 / 0.5
    blur                                0.4 / 2.3 / 2.8    Pillow rounds after each of six passes
    solarize, flip                      0
    all, DINO's recipes                 1.2 / 5.7 / 16.5   mostly Pillow's truncation: views are 1.1 brighter here
"""

from functools import lru_cache

import torch
from torch import Tensor

from mmadclr.models.preprocessors.photometric_ops import GRAY_WEIGHTS, box_taps

__all__ = [
    'adjust_brightness',
    'adjust_contrast',
    'adjust_hue',
    'adjust_saturation',
    'box_taps',
    'gaussian_blur',
    'solarize',
    'to_gray',
]

LUMA = tuple(weight / 65536 for weight in GRAY_WEIGHTS)
PASSES = 3  # box blurs that approximate a Gaussian
TILE = 32  # rows of a banded product on a CPU: skips most zeros, yet large enough for a fast product


def to_gray(x: Tensor) -> Tensor:
    """Luma (N, 1, H, W) of RGB images."""
    red, green, blue = x.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    return x.mul_(_per_image(factor)).clamp_(0, 255)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    red, green, blue = x.mean(dim=(2, 3)).unbind(dim=1)
    mean = (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
    return x.mul_(_per_image(factor)).add_(_per_image(mean * (1 - factor))).clamp_(0, 255)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    factor = _per_image(factor)
    rest = to_gray(x).mul_(1 - factor)
    return x.mul_(factor).add_(rest).clamp_(0, 255)


def adjust_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Shifts the hue by ``shift``, a fraction of the circle in [-0.5, 0.5]; value and chroma (max - min) are unchanged.

    On the HSV hexagon, the angle between a color and cyan is ``(max + r - g - b + max - min) / (6 chroma)``, with the sign
    of ``b - g``: no case distinction by the largest channel. A gray pixel has chroma 0 and is unchanged.
    """
    red, green, blue = x.unbind(dim=1)
    value = torch.maximum(red, green).clamp_(min=blue)
    low = torch.minimum(red, green).clamp_(max=blue)
    turn = (red - green).sub_(blue).add_(value, alpha=2).sub_(low)
    chroma6 = torch.sub(value, low, out=low).mul_(6)
    turn.div_(chroma6.clamp(min=1e-6)).copysign_(blue - green)
    turn.add_(shift[:, None, None])
    turn.sub_(turn.round())
    # Each channel is a trapezium around its peak: at most ``value``, at least ``value - chroma``.
    top, bottom = torch.add(value, chroma6, alpha=1 / 6), value.sub_(chroma6, alpha=1 / 3)
    torch.addcmul(bottom, chroma6, turn.abs().clamp_(1 / 6, 1 / 3), out=red)
    torch.addcmul(top, chroma6, (turn + 1 / 6).abs_().clamp_(1 / 6, 1 / 3), value=-1, out=green)
    torch.addcmul(top, chroma6, turn.sub_(1 / 6).abs_().clamp_(1 / 6, 1 / 3), value=-1, out=blue)
    return x


def solarize(x: Tensor) -> Tensor:
    """Inverts values of 128 and above: ``min(x, 255 - x)``, equal for integers and continuous in between."""
    return torch.minimum(x, 255 - x, out=x)


def gaussian_blur(x: Tensor, taps: Tensor) -> Tensor:
    """Three box blurs per axis with repeated border pixels, as ``PIL.ImageFilter.GaussianBlur``, in one product per axis.

    ``taps`` (N, 2r + 1) are the boxes of :func:`box_taps`.
    """
    n, channels, height, width = x.shape
    reach = PASSES * (taps.shape[1] // 2)
    columns = _blur_matrix(taps, height)
    rows = columns if width == height else _blur_matrix(taps, width)
    middle, result = torch.empty_like(x), torch.empty_like(x)
    for own, read in _windows(height, reach, x.device):
        middle[:, :, own] = columns[:, None, own, read] @ x[:, :, read]
    flat = middle.view(n, channels * height, width)
    for own, read in _windows(width, reach, x.device):
        result.view_as(flat)[:, :, own] = flat[:, :, read] @ rows[:, own, read].mT
    return result


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _windows(size: int, reach: int, device: torch.device) -> list[tuple[slice, slice]]:
    """Rows of a banded matrix to compute together, and the columns they need; a GPU computes all at once."""
    tile = TILE if device.type == 'cpu' else size
    return [
        (slice(i, min(i + tile, size)), slice(max(i - reach, 0), min(i + tile + reach, size))) for i in range(0, size, tile)
    ]


def _blur_matrix(taps: Tensor, size: int) -> Tensor:
    """(N, size, size): three box blurs along an axis as a banded matrix.

    Except at the border, its rows are shifts of each other, so they are computed on an axis just long enough for
    both borders and one row in between.
    """
    radius = taps.shape[1] // 2
    short = min(size, 2 * PASSES * radius + 1)
    box = (taps @ _placement(short, radius, taps.device)).view(-1, short, short)
    cubed = box @ box @ box
    if short == size:
        return cubed
    source, target = _spread(short, size, taps.device)
    matrix = cubed.new_zeros(len(taps), size, size)
    return matrix.scatter_(2, target.expand(len(taps), -1, -1), cubed.index_select(1, source))


@lru_cache(maxsize=32)
def _placement(size: int, radius: int, device: torch.device) -> Tensor:
    """(2 radius + 1, size * size): matrix of each tap of a box on an axis with repeated border pixels."""
    position = torch.arange(size, device=device)
    read = (position + torch.arange(-radius, radius + 1, device=device)[:, None]).clamp_(0, size - 1)
    return (read[:, :, None] == position).float().flatten(1)


@lru_cache(maxsize=32)
def _spread(short: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows (size,) of the short matrix that a long one repeats, and their columns (size, short)."""
    row, center = torch.arange(size, device=device), short // 2
    first = (row - center).clamp_(0, size - short)
    return row - first, first[:, None] + torch.arange(short, device=device)
