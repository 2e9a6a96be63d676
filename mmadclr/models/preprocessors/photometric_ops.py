"""Photometric augmentation of image batches, bit-identical to Pillow's 8-bit arithmetic.

All functions take and return float tensors (N, 3, H, W) with integers in [0, 255]; per-image parameters are
tensors (N,). DINO augments with torchvision on PIL images, which rounds to 8 bits after every operation; reproducing that
rounding keeps a batch on the device equal to the published pipeline, image by image.
"""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

GRAY_WEIGHTS = (19595, 38470, 7471)  # Pillow, Convert.c: ITU-R 601-2 luma in 1/65536


def to_gray(x: Tensor) -> Tensor:
    """Luma (N, 1, H, W) of RGB images."""
    red, green, blue = x.unbind(dim=1)
    weighted = GRAY_WEIGHTS[0] * red + GRAY_WEIGHTS[1] * green + GRAY_WEIGHTS[2] * blue
    return ((weighted + 32768) / 65536).floor().unsqueeze(1)


def blend(base: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    """``base + factor * (x - base)`` clamped to [0, 255] and truncated, as ``PIL.Image.blend``."""
    return (base + _per_image(factor) * (x - base)).clamp_(0, 255).floor_()


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    return blend(torch.zeros_like(x), x, factor)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = to_gray(x).to(torch.float64).mean(dim=(1, 2, 3), keepdim=True)
    return blend((mean + 0.5).floor().to(x.dtype), x, factor)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    return blend(to_gray(x), x, factor)


def adjust_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Shifts the hue by ``shift`` (a fraction of the circle in [-0.5, 0.5]) in Pillow's 8-bit HSV space."""
    hue, saturation, value = _rgb_to_hsv(x)
    return _hsv_to_rgb(torch.remainder(hue + _per_image(shift * 255)[:, 0].trunc(), 256), saturation, value)


def box_taps(radius: Tensor, passes: int = 3) -> Tensor:
    """(N, 2r + 1) taps of the box whose ``passes``-fold use has standard deviation ``radius`` pixels (Pillow, BoxBlur.c).

    Pixels within the integer part of the box radius have weight ``inner``, the next one on each side the remainder; both are
    multiples of 2^-24 up to 1, which float32 represents exactly. ``radius`` (N,) must be on the CPU, where the width of the
    box is needed.
    """
    radius = radius.float()  # Pillow works in single precision up to the integers below
    variance = radius * radius / passes
    full = ((torch.sqrt(12 * variance + 1) - 1) / 2).floor()
    part = (2 * full + 1) * (full * (full + 1) - 3 * variance) / (6 * (variance - (full + 1) ** 2))
    box_radius = full + part
    full = box_radius.floor().double()
    inner = (2**24 / (2 * box_radius + 1)).floor().double()
    edge = ((2**24 - (2 * full + 1) * inner) / 2).floor()
    reach = int(full.numpy().max()) + 1
    offset = torch.arange(-reach, reach + 1).abs()
    inner, edge, full = inner[:, None], edge[:, None], full[:, None]
    return torch.where(offset <= full, inner, torch.where(offset == full + 1, edge, 0.0)).div(2**24).float()


def gaussian_blur(x: Tensor, taps: Tensor) -> Tensor:
    """``PIL.ImageFilter.GaussianBlur``: three box blurs per axis, with the boxes ``taps`` (N, 2r + 1) of :func:`box_taps`.

    In double precision, which represents Pillow's 24-bit fixed-point sums exactly.
    """
    weights, dtype = taps.double(), x.dtype
    x = x.double()
    for dim in (3, 2):
        for _ in range(3):
            x = _box_blur(x, weights, dim)
    return x.to(dtype)


def solarize(x: Tensor, threshold: int = 128) -> Tensor:
    """Inverts values of ``threshold`` and above."""
    return torch.where(x < threshold, x, 255 - x)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _rgb_to_hsv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue, saturation, value, each (N, H, W) and an integer in [0, 255] (Pillow, Convert.c: ``rgb2hsv_row``)."""
    red, green, blue = x.float().unbind(dim=1)
    value, low = x.float().amax(dim=1), x.float().amin(dim=1)
    chroma = value - low
    rc, gc, bc = ((value - channel) / chroma.clamp(min=1) for channel in (red, green, blue))
    # Stored in single, computed in double precision: values close to an integer depend on it.
    second, third = (2 + rc.double() - bc).float(), (4 + gc.double() - rc).float()
    sector = torch.where(red == value, bc - gc, torch.where(green == value, second, third))
    hue = (torch.remainder(sector.double() / 6 + 1, 1).float().double() * 255).trunc().float()
    saturation = ((chroma / value.clamp(min=1)).double() * 255).trunc().float()
    gray = chroma == 0
    return hue.masked_fill(gray, 0), saturation.masked_fill(gray, 0), value


def _hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Inverse of :func:`_rgb_to_hsv` with Pillow's rounding (Convert.c: ``hsv2rgb_row``) -> (N, 3, H, W)."""
    position = hue.double() * 6 / 255
    sector = position.floor()
    fraction = (position - sector).float().double()
    fs = (saturation.double() / 255).float().double()
    p = _round_half_up(value * (1 - fs))
    q = _round_half_up(value * (1 - fs * fraction))
    t = _round_half_up(value * (1 - fs * (1 - fraction)))
    v = value
    # Red, green and blue for each of the six sectors.
    table = torch.stack((v, q, p, p, t, v, t, v, v, q, p, p, p, p, t, v, v, q)).unflatten(0, (3, 6))
    index = torch.remainder(sector, 6).long().expand(3, 1, *hue.shape)
    return table.gather(1, index)[:, 0].transpose(0, 1)


def _round_half_up(x: Tensor) -> Tensor:
    return (x.float() + 0.5).floor().clamp_(0, 255)


def _box_blur(x: Tensor, weights: Tensor, dim: int) -> Tensor:
    """One pass of an axis-wise weighted mean with repeated border pixels, rounded to integers."""
    reach, size = weights.shape[1] // 2, x.shape[dim]
    padding = (reach, reach, 0, 0) if dim == 3 else (0, 0, reach, reach)
    padded = F.pad(x, padding, mode='replicate')
    taps = (_per_image(weights[:, k]) * padded.narrow(dim, k, size) for k in range(weights.shape[1]))
    return (reduce(torch.add, taps) + 0.5).floor_()
