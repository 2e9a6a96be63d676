"""Photometric recipes: parameters drawn per view in the worker and applied on the device.

A draw is one row of float32 values, so the parameters of a batch of views are one tensor (..., NUM_PARAMS).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

JITTER = ('brightness', 'contrast', 'saturation', 'hue')
COLUMNS = ('flip', *(f'order_{i}' for i in range(4)), *JITTER, 'gray', 'blur_radius', 'solarize')
NUM_PARAMS = len(COLUMNS)
NO_OP = -1.0  # value of order_i if no jitter operation is applied


def column(params: Tensor, name: str) -> Tensor:
    """One named column (...,) of a parameter tensor (..., NUM_PARAMS)."""
    return params[..., COLUMNS.index(name)]


@dataclass(frozen=True)
class PhotometricRecipe:
    """Distribution of the photometric augmentation of a view, in the order of application.

    The defaults are those of DINO's first global view (facebookresearch/dino, ``main_dino.py: DataAugmentationDINO``)
    without its blur: ``RECIPES`` adds what differs between views.

    Attributes:
        flip: Probability of a horizontal flip.
        jitter: Probability of color jitter; its four operations are applied in random order.
        brightness, contrast, saturation: Factors are uniform in ``1 -+ value``.
        hue: Hue shift, uniform in ``-+ value``.
        gray: Probability of conversion to grayscale.
        blur: Probability of a Gaussian blur.
        blur_radius: Range of its standard deviation, in pixels of the crop.
        solarize: Probability of inverting values of 128 and above.
    """

    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    gray: float = 0.2
    blur: float = 0.0
    blur_radius: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0

    def __post_init__(self) -> None:
        for name in ('flip', 'jitter', 'gray', 'blur', 'solarize'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'photometric recipe: {name}={getattr(self, name)} must be a probability in [0, 1]')
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f'photometric recipe: hue={self.hue} must be in [0, 0.5]')

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """(NUM_PARAMS,) float32."""
        return self.draw_rows(rng, 1)[0]

    def draw_rows(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """(count, NUM_PARAMS) float32. Every row consumes the same number of random numbers."""
        if count == 0:
            return np.empty((0, NUM_PARAMS), dtype=np.float32)
        # View by view, so that a view's random numbers do not depend on how many are drawn at once.
        drawn = [(rng.random(6), rng.permutation(4), rng.random(4)) for _ in range(count)]
        u, order, turns = (np.array(part) for part in zip(*drawn, strict=True))
        widths = np.array([self.brightness, self.contrast, self.saturation, self.hue])
        low, high = self.blur_radius
        params = np.empty((count, NUM_PARAMS), dtype=np.float32)
        params[:, 0] = u[:, 0] < self.flip
        params[:, 1:5] = np.where((u[:, 1:2] < self.jitter) & (widths[order] > 0), order, NO_OP)
        params[:, 5:9] = np.array([1, 1, 1, 0]) + widths * (2 * turns - 1)
        params[:, 5:8] = params[:, 5:8].clip(min=0)
        params[:, 9] = u[:, 2] < self.gray
        params[:, 10] = np.where(u[:, 3] < self.blur, low + (high - low) * u[:, 4], 0.0)
        params[:, 11] = u[:, 5] < self.solarize
        return params


RECIPES = {
    'global_1': dict(blur=1.0),
    'global_2': dict(blur=0.1, solarize=0.2),
    'local': dict(blur=0.5),
    # Sherrylone/PQCL, loader.py: query crops are the local crops of DINO without the flip.
    'query': dict(blur=0.5, flip=0.0),
}


def build_recipe(view: str, overrides: dict | None) -> PhotometricRecipe:
    """DINO's recipe for ``view`` (a key of ``RECIPES``), with overrides.

    Raises:
        ValueError: Unknown key, or a value out of range.
    """
    settings = RECIPES[view] | (overrides or {})
    unknown = settings.keys() - PhotometricRecipe.__dataclass_fields__.keys()
    if unknown:
        known = ', '.join(PhotometricRecipe.__dataclass_fields__)
        raise ValueError(f'photometric recipe of {view}: unknown key {", ".join(sorted(unknown))}; accepted: {known}')
    return PhotometricRecipe(**settings)
