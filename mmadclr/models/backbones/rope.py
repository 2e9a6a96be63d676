"""Rotary positions (RoPE) of patches on a grid, as in DINOv3.

Shape legend: L blocks, N patches, S tokens, C channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMALIZATIONS = ('separate', 'max', 'min')
BASE = 100.0
AXES = 2
CHANNELS_PER_PERIOD = 2 * AXES  # every angle rotates two channels, and every axis has each period


class RotaryPositions(nn.Module):
    """Cosines and sines that rotate queries and keys of patches; other tokens are unchanged.

    As in DINOv3 (facebookresearch/dinov3, ``layers/rope_position_encoding.py``): patch centers are in [-1, 1] at any
    resolution, so nothing is interpolated and any grid works. The first half of the angles encodes the height,
    the second the width. ``periods`` (C/4) is the only stored tensor, because published files contain it
    rounded to bfloat16; it is kept in float32 or higher precision.

    Args:
        head_dim: Channels of a head.
        base: Periods are ``base ** (j / (C/4))`` for j = 0, 1, ..., in half image sides; 100 by default.
        min_period, max_period: Both, instead of ``base``: periods in geometric progression from one to the other.
        normalize_coords: Divisor of coordinates: height and width separately (``'separate'``), or the
            longer (``'max'``) or shorter side (``'min'``) for both.
        shift_coords: In training, coordinates are shifted by up to this much, drawn per axis.
        jitter_coords: In training, they are multiplied or divided by up to this factor, log-uniformly, drawn per
            axis.
        rescale_coords: The same, drawn once for both axes. DINOv3's published recipes use 2, and none of the others.

    Raises:
        ValueError: ``head_dim`` is not a multiple of 4, or an invalid value.
    """

    periods: Tensor

    def __init__(
        self,
        head_dim: int,
        base: float | None = None,
        min_period: float | None = None,
        max_period: float | None = None,
        normalize_coords: str = 'separate',
        shift_coords: float | None = None,
        jitter_coords: float | None = None,
        rescale_coords: float | None = None,
    ) -> None:
        super().__init__()
        if normalize_coords not in NORMALIZATIONS:
            raise ValueError(f'rope: normalize_coords={normalize_coords!r}: choose one of {", ".join(NORMALIZATIONS)}')
        self.normalize_coords = normalize_coords
        self.shift_coords = _at_least(0, shift_coords=shift_coords)
        self.jitter_coords = _at_least(1, jitter_coords=jitter_coords)
        self.rescale_coords = _at_least(1, rescale_coords=rescale_coords)
        self.head_dim, self.range = head_dim, (base, min_period, max_period)
        self.register_buffer('periods', rotary_periods(head_dim, *self.range).float())

    def reset_parameters(self) -> None:
        """Resets the periods to those of the arguments."""
        self.periods.copy_(rotary_periods(self.head_dim, *self.range))

    def described(self) -> dict[str, Any]:
        """Arguments other than the default ones, without those for training."""
        base, min_period, max_period = self.range
        found: dict[str, Any] = dict(min_period=min_period, max_period=max_period)
        found['base'] = None if base == BASE else base
        found['normalize_coords'] = None if self.normalize_coords == NORMALIZATIONS[0] else self.normalize_coords
        return {name: value for name, value in found.items() if value is not None}

    def periods_of(
        self,
        base: float | None = None,
        min_period: float | None = None,
        max_period: float | None = None,
        normalize_coords: str = 'separate',
    ) -> Tensor:
        """Periods (C/4) for other arguments.

        Raises:
            ValueError: Invalid arguments, or coordinates are divided by other sides than here.
        """
        if normalize_coords != self.normalize_coords:
            raise ValueError(
                f'rope: normalize_coords={normalize_coords!r} of the weights differs from {self.normalize_coords!r} of the '
                'backbone'
            )
        return rotary_periods(self.head_dim, base, min_period, max_period).float()

    @torch.no_grad()
    def forward(self, grid: tuple[int, int], blocks: int, before: int, total: int) -> Tensor:
        """Cosines and sines (L, 2, S, C/2) for ``total`` tokens S, of which those ``before`` and after the patches of the
        ``grid`` are not rotated; L is the number of ``blocks`` if coordinates are drawn per block, otherwise 1.
        """
        coords = patch_centers(*grid, self.normalize_coords, self.periods)
        if self.training:
            coords = self.augment(coords, blocks)
        angles = rotary_angles(coords, self.periods)
        angles = F.pad(angles, (0, 0, before, total - before - angles.shape[-2]))
        return torch.stack((angles.cos(), angles.sin()), dim=-3).view(-1, 2, *angles.shape[-2:])

    def augment(self, coords: Tensor, blocks: int) -> Tensor:
        """Coordinates (N, 2) per block of a pass (L, N, 2); unchanged if nothing is drawn.

        Each draw applies to the full batch (facebookresearch/dinov3, ``models/vision_transformer.py``).
        """
        if self.shift_coords:
            coords = coords + _draw(self.shift_coords, blocks, AXES, coords)
        if self.jitter_coords:
            coords = coords * _draw(math.log(self.jitter_coords), blocks, AXES, coords).exp()
        if self.rescale_coords:
            coords = coords * _draw(math.log(self.rescale_coords), blocks, 1, coords).exp()
        return coords

    def _apply(self, *args, **kwargs) -> Self:
        periods = self.periods
        super()._apply(*args, **kwargs)
        if self.periods.dtype.itemsize < 4:
            self.periods = periods.to(self.periods.device)  # half precision would cause errors of degrees
        return self


def build_rope(rope: bool | Mapping[str, Any] | None, head_dim: int) -> RotaryPositions | None:
    """Rotary positions for the argument of a backbone: none, True for DINOv3's, or their arguments.

    Raises:
        ValueError: Another type of argument, or an error of ``RotaryPositions``.
    """
    if rope is None or rope is False:
        return None
    if rope is not True and not isinstance(rope, Mapping):
        raise ValueError(f'rope={rope!r}: choose True, False or a dict of {", ".join(ROPE_ARGUMENTS)}')
    arguments = {} if rope is True else dict(rope)
    unknown = arguments.keys() - ROPE_ARGUMENTS
    if unknown:
        raise ValueError(f'rope: unknown {", ".join(sorted(map(str, unknown)))}; accepted: {", ".join(ROPE_ARGUMENTS)}')
    return RotaryPositions(head_dim, **arguments)


ROPE_ARGUMENTS = tuple(name for name in RotaryPositions.__init__.__annotations__ if name not in ('head_dim', 'return'))


def rotary_periods(
    head_dim: int, base: float | None = None, min_period: float | None = None, max_period: float | None = None
) -> Tensor:
    """Periods (C/4) in float64; see ``RotaryPositions``.

    Raises:
        ValueError: As there.
    """
    if head_dim % CHANNELS_PER_PERIOD:
        raise ValueError(
            f'rope: {head_dim} channels per head must be a multiple of {CHANNELS_PER_PERIOD}; change num_heads or embed_dim'
        )
    number = head_dim // CHANNELS_PER_PERIOD
    limits = (min_period, max_period)
    if limits == (None, None):
        base = _positive(base=BASE if base is None else base)
        return base ** (torch.arange(number, dtype=torch.float64) / number)
    if None in limits or base is not None:
        raise ValueError(
            f'rope: set either base, or min_period and max_period: base={base}, min_period, max_period={limits}'
        )
    low, high = _positive(min_period=min_period), _positive(max_period=max_period)
    return low * (high / low) ** torch.linspace(0, 1, number, dtype=torch.float64)


def patch_centers(height: int, width: int, normalize_coords: str, like: Tensor) -> Tensor:
    """Rows and columns (N, 2) of the centers of height * width patches, in raster order, with dtype and device of ``like``.

    -1 and 1 are the borders of the image, or of the enclosing or enclosed square (``'max'``, ``'min'``).
    """
    sides = dict(separate=(height, width), max=2 * (max(height, width),), min=2 * (min(height, width),))[normalize_coords]
    axes = [
        (torch.arange(number, dtype=like.dtype, device=like.device) + 0.5) / side * 2 - 1
        for number, side in zip((height, width), sides, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1).flatten(0, 1)


def rotary_angles(coords: Tensor, periods: Tensor) -> Tensor:
    """Coordinates (..., N, 2) and periods (C/4) -> angles (..., N, C/2), rows first."""
    return (2 * math.pi * coords[..., None] / periods).flatten(-2)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotates channels (..., S, C) by cosines and sines (2, S, C/2); channels c and c + C/2 form a pair.

    Products are computed in the dtype of the cosines; the result has that of ``x`` (facebookresearch/dinov3,
    ``layers/attention.py``).
    """
    cos, sin = rotation.unbind(0)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def _draw(limit: float, blocks: int, axes: int, like: Tensor) -> Tensor:
    """(L, 1, axes), uniform between -limit and limit."""
    return like.new_empty(blocks, 1, axes).uniform_(-limit, limit)


def _positive(**named: Any) -> float:
    ((name, value),) = named.items()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f'rope: {name}={value!r} must be a positive number')
    return float(value)


def _at_least(least: float, **named: Any) -> float | None:
    ((name, value),) = named.items()
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < math.inf:
        raise ValueError(f'rope: {name}={value!r} must be at least {least}, or None')
    return float(value)
