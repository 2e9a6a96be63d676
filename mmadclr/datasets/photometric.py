"""Photometric recipes: what is drawn for a view in the worker and applied to it on the device.

A draw is one row of float32 numbers, so the parameters of a batch of views travel as one tensor (..., NUM_PARAMS).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

JITTER = ('brightness', 'contrast', 'saturation', 'hue')
COLUMNS = ('flip', *(f'order_{i}' for i in range(4)), *JITTER, 'grey', 'blur_radius', 'solarise')
NUM_PARAMS = len(COLUMNS)
NO_OP = -1.0  # entry of order_i where no jitter operation takes place


def column(params: Tensor, name: str) -> Tensor:
    """One named column (...,) of a parameter tensor (..., NUM_PARAMS)."""
    return params[..., COLUMNS.index(name)]


@dataclass(frozen=True)
class PhotometricRecipe:
    """Distribution of the photometric augmentation of a view, in the order of application.

    The defaults are those of DINO's first global view (facebookresearch/dino, ``main_dino.py: DataAugmentationDINO``)
    without its blur: ``RECIPES`` adds what differs from view to view.

    Attributes:
        flip: Probability of a left-right flip.
        jitter: Probability of the colour jitter; its four parts come in random order.
        brightness, contrast, saturation: Factors are uniform in ``1 -+ value``.
        hue: Turn of the hue circle, uniform in ``-+ value``.
        grey: Probability of dropping colour.
        blur: Probability of a Gaussian blur.
        blur_radius: Range of its standard deviation, in pixels of the crop.
        solarise: Probability of inverting values from 128 on.
    """

    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grey: float = 0.2
    blur: float = 0.0
    blur_radius: tuple[float, float] = (0.1, 2.0)
    solarise: float = 0.0

    def __post_init__(self) -> None:
        for name in ('flip', 'jitter', 'grey', 'blur', 'solarise'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'photometric recipe: {name}={getattr(self, name)} is no probability')
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f'photometric recipe: hue={self.hue} must lie in [0, 0.5]')

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """(NUM_PARAMS,) float32. Always takes the same number of random numbers, so draws of later views stay put."""
        u = rng.random(6)
        order = rng.permutation(4).astype(np.float32)
        widths = np.array([self.brightness, self.contrast, self.saturation, self.hue])
        amounts = np.array([1, 1, 1, 0]) + widths * rng.uniform(-1, 1, 4)
        amounts[:3] = amounts[:3].clip(min=0)
        jittered = (u[1] < self.jitter) & (widths[order.astype(int)] > 0)
        low, high = self.blur_radius
        radius = low + (high - low) * u[4] if u[3] < self.blur else 0.0
        head = [u[0] < self.flip, *np.where(jittered, order, NO_OP)]
        return np.array([*head, *amounts, u[2] < self.grey, radius, u[5] < self.solarise], dtype=np.float32)


RECIPES = {
    'global_1': dict(blur=1.0),
    'global_2': dict(blur=0.1, solarise=0.2),
    'local': dict(blur=0.5),
    # Sherrylone/PQCL, loader.py: query crops are the local crops of DINO without the flip.
    'query': dict(blur=0.5, flip=0.0),
}


def build_recipe(view: str, overrides: dict | None) -> PhotometricRecipe:
    """DINO's recipe for ``view`` (a key of ``RECIPES``), with overrides.

    Raises:
        ValueError: A key is no part of a recipe, or a value is out of range.
    """
    settings = RECIPES[view] | (overrides or {})
    unknown = settings.keys() - PhotometricRecipe.__dataclass_fields__.keys()
    if unknown:
        known = ', '.join(PhotometricRecipe.__dataclass_fields__)
        raise ValueError(f'photometric recipe of {view}: unknown key {", ".join(sorted(unknown))}; known are {known}')
    return PhotometricRecipe(**settings)
