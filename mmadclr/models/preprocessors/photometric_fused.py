"""The operations of :mod:`.photometric_float_ops` for compiled code: every operation on every image, and a choice.

Written for a compiler that fuses them: a group of views takes four passes over its pixels and one blur. Operation by
operation, each on the images that it applies to, it would be 300 small operations, which a GPU finishes sooner than the
host issues them. Images are (N, 3, H, W), and columns of the parameters (N, 1, 1, 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mmadclr.annotations import MaybeNone
from mmadclr.datasets.photometric_recipe import JITTER, column
from mmadclr.models.preprocessors.photometric_float_ops import LUMA, box_taps, gaussian_blur

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


class FusedColors(NamedTuple):
    """The two compiled functions, before and after the blur."""

    before: Callable[[Tensor, Tensor], Tensor]
    after: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

    @classmethod
    def compiled(cls, **options) -> FusedColors:
        """``options``: of ``torch.compile``; sizes are static, since every batch has the same."""
        return cls(*(torch.compile(part, dynamic=False, **options) for part in (before_blur, after_blur)))

    def __call__(self, pixels: Tensor, draws: Draws, mean: Tensor, std: Tensor) -> Tensor:
        """uint8 images -> normalized float images."""
        x = self.before(pixels, draws.params)
        if draws.blurred is not None:
            x = x.index_copy(0, draws.blurred, gaussian_blur(x.index_select(0, draws.blurred), draws.taps))
        return self.after(x, draws.params, mean, std)


class Draws(NamedTuple):
    """Parameters (N, NUM_PARAMS), and the images that are blurred (M,) with their taps (M, 2r + 1); None if none are."""

    params: Tensor
    blurred: Tensor | MaybeNone
    taps: Tensor | MaybeNone

    @classmethod
    def of(cls, params: Tensor) -> Draws:
        """Works out on the CPU what decides about shapes."""
        blurred = (column(params, 'blur_radius') > 0).nonzero()[:, 0]
        if not len(blurred):
            return cls(params, None, None)
        return cls(params, blurred, box_taps(column(params, 'blur_radius')[blurred]))


def before_blur(pixels: Tensor, params: Tensor) -> Tensor:
    """Flip, jitter in the drawn order, gray: uint8 -> float in [0, 255]."""
    x = pixels.float()
    x = torch.where(_column(params, 'flip') > 0, x.flip(-1), x)
    factors = torch.cat([_column(params, name) for name in JITTER], dim=1)
    for position in range(len(JITTER)):
        kind = _column(params, f'order_{position}')
        factor = factors.gather(1, kind.clamp(min=0).long())
        x = torch.where(kind < 0, x, jittered(x, kind, factor))
    return torch.where(_column(params, 'gray') > 0, luma(x), x)


def after_blur(x: Tensor, params: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Solarization and normalization."""
    x = torch.where(_column(params, 'solarize') > 0, torch.minimum(x, 255 - x), x)
    return (x - mean) / std


def jittered(x: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
    """The operation ``kind``, an index into ``JITTER``. All but hue blend the image with black, a gray level or its luma."""
    gray = luma(x)
    level = gray.mean(dim=(2, 3), keepdim=True)
    other = torch.where(kind == CONTRAST, level, torch.where(kind == SATURATION, gray, torch.zeros_like(gray)))
    blended = (x * factor + other * (1 - factor)).clamp(0, 255)
    return torch.where(kind == HUE, shifted_hue(x, factor[:, 0]), blended)


def luma(x: Tensor) -> Tensor:
    """(N, 1, H, W)."""
    return x[:, :1] * LUMA[0] + x[:, 1:2] * LUMA[1] + x[:, 2:] * LUMA[2]


def shifted_hue(x: Tensor, shift: Tensor) -> Tensor:
    """As ``adjust_hue``, which explains the formula, for shifts (N, 1, 1)."""
    red, green, blue = x.unbind(dim=1)
    value, low = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    chroma6 = 6 * (value - low)
    turn = (red - green - blue + 2 * value - low) / chroma6.clamp(min=1e-6)
    turn = turn.copysign(blue - green) + shift
    turn = turn - turn.round()
    top, bottom = value + chroma6 / 6, value - chroma6 / 3
    heights = [(turn + offset).abs().clamp(1 / 6, 1 / 3) for offset in (0, 1 / 6, -1 / 6)]
    return torch.stack((bottom + chroma6 * heights[0], top - chroma6 * heights[1], top - chroma6 * heights[2]), dim=1)


def _column(params: Tensor, name: str) -> Tensor:
    return column(params, name)[:, None, None, None]
