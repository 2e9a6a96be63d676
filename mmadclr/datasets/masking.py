"""Masks over the patches of a view, drawn in loader workers.

Shape legend: h x w patches of a view. A mask is True where a patch is hidden from the student.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np

from mmadclr.config.components import Place
from mmadclr.config.findings import Finding
from mmadclr.datasets.conflicts import BACKBONE, patch_size
from mmadclr.registry import TRANSFORMS

ATTEMPTS = 10  # per block, before accepting a smaller mask


class PatchMasking(ABC):
    """Draws the masked fraction of a view; subclasses draw the positions.

    bytedance/ibot, ``loader.py: ImageFolderMask``.

    Args:
        patch_size: That of the backbone, in pixels.
        ratio: Fraction of patches to mask, or several, of which each view gets one at random.
        spread: Half-width of the range around each ``ratio`` from which the fraction is drawn.
        start_epoch: Before this epoch, counted from 0, nothing is masked.

    Raises:
        ValueError: ``ratio`` and ``spread`` differ in length or leave [0, 1]; ``start_epoch`` is negative.
    """

    smallest_grid = 1  # minimum patches per side for masking to be possible

    def __init__(
        self,
        patch_size: int = 16,
        ratio: float | Sequence[float] = (0.0, 0.3),
        spread: float | Sequence[float] = (0.0, 0.2),
        start_epoch: int = 0,
    ) -> None:
        ratios, spreads = np.atleast_1d(ratio).astype(float), np.atleast_1d(spread).astype(float)
        if ratios.shape != spreads.shape or ratios.ndim != 1 or not len(ratios):
            raise ValueError(f'{type(self).__name__}: ratio={ratio} and spread={spread} must have the same length')
        if (spreads < 0).any() or (ratios - spreads < 0).any() or (ratios + spreads > 1).any():
            raise ValueError(
                f'{type(self).__name__}: ratio={ratio} with spread={spread}: ratio - spread and ratio + spread '
                'must be in [0, 1]'
            )
        if start_epoch < 0:
            raise ValueError(f'{type(self).__name__}: start_epoch={start_epoch} must not be negative')
        self.patch_size = patch_size
        self.ratios, self.spreads = ratios, spreads
        self.start_epoch = start_epoch

    @classmethod
    def find_conflicts(cls, place: Place) -> Iterator[Finding]:
        """Checks masks against the backbone's patch size and the run length."""
        patch, masked = patch_size(place), place.settings['patch_size']
        epochs, start = place.get('train_cfg.max_epochs'), place.settings['start_epoch']
        if patch and masked != patch:
            text = f'{place.path}.patch_size={masked}, but {BACKBONE} has patch size {patch}: set it to {patch}'
            yield Finding(text)
        if start and isinstance(epochs, int) and start >= epochs:
            text = f'{place.path}.start_epoch={start} >= train_cfg.max_epochs={epochs}: nothing is ever masked'
            yield Finding(f'{text}; lower the first')

    def draw(self, rng: np.random.Generator, num_views: int, size: int, epoch: int | None = None) -> np.ndarray:
        """Masks (num_views, h, w) of square views of ``size`` pixels.

        Raises:
            ValueError: ``size`` is not a multiple of the patch size, or ``epoch`` is required but unknown.
        """
        grid = self.grid(size)
        if self.start_epoch:
            if epoch is None:
                raise ValueError(
                    f'start_epoch={self.start_epoch} requires a data set that passes the epoch to the transform'
                )
            if epoch < self.start_epoch:
                return np.zeros((num_views, grid, grid), dtype=bool)
        return np.stack([self.draw_mask(rng, grid, grid, self.draw_ratio(rng) * grid * grid) for _ in range(num_views)])

    def grid(self, size: int) -> int:
        """Patches along a side of ``size`` pixels."""
        if size % self.patch_size:
            raise ValueError(
                f'{type(self).__name__}: the view size {size} must be a multiple of patch_size={self.patch_size}; '
                'set it to that of the backbone'
            )
        return size // self.patch_size

    def check_size(self, size: int) -> None:
        """Checks that views are a multiple of the patch size and that the largest ratio masks at least one patch.

        Raises:
            ValueError: They are not, or no patch would ever be masked.
        """
        grid, largest = self.grid(size), (self.ratios + self.spreads).max()
        if grid < self.smallest_grid or largest * grid * grid < 1:
            raise ValueError(
                f'{type(self).__name__}: ratio={self.ratios.tolist()} with spread={self.spreads.tolist()} masks none of the '
                f'{grid} x {grid} patches of views of {size} pixels: raise ratio or spread, or use larger views or '
                'smaller patches'
            )

    def draw_ratio(self, rng: np.random.Generator) -> float:
        """Fraction of patches to mask."""
        which = rng.integers(len(self.ratios))
        return self.ratios[which] + self.spreads[which] * rng.uniform(-1, 1)

    @abstractmethod
    def draw_mask(self, rng: np.random.Generator, height: int, width: int, wanted: float) -> np.ndarray:
        """Mask (height, width) with at most ``wanted`` patches."""


@TRANSFORMS.register_module()
class RandomMasking(PatchMasking):
    """Individually drawn patches: exactly the integer part of ``wanted`` (``pred_shape='rand'`` of the published code)."""

    def draw_mask(self, rng: np.random.Generator, height: int, width: int, wanted: float) -> np.ndarray:
        return rng.permutation(height * width).reshape(height, width) < int(wanted)


@TRANSFORMS.register_module()
class BlockMasking(PatchMasking):
    """Rectangles of random position, area and aspect ratio until enough patches are masked, as in BEiT.

    Args:
        aspect: Minimum ratio of height to width; the maximum is its inverse.
        **kwargs: See ``PatchMasking``.

    Raises:
        ValueError: ``aspect`` is not in (0, 1].
    """

    smallest_grid = 2  # a block is smaller than the view

    def __init__(self, aspect: float = 0.3, **kwargs) -> None:
        super().__init__(**kwargs)
        if not 0 < aspect <= 1:
            raise ValueError(f'BlockMasking: aspect={aspect}, the minimum ratio of height to width, must be in (0, 1]')
        self.log_aspect = -math.log(aspect)

    def draw_mask(self, rng: np.random.Generator, height: int, width: int, wanted: float) -> np.ndarray:
        mask = np.zeros((height, width), dtype=bool)
        missing = wanted
        while missing > 0 and (block := self.draw_block(rng, mask, missing)):
            mask[block] = True
            missing = wanted - np.count_nonzero(mask)
        return mask

    def draw_block(self, rng: np.random.Generator, mask: np.ndarray, missing: float) -> tuple[slice, slice] | None:
        """A block smaller than the view that masks 1 to ``missing`` additional patches; None if all attempts fail."""
        height, width = mask.shape
        smallest = (min(height, width) // 3) ** 2
        for _ in range(ATTEMPTS):
            # Also valid if the second bound is smaller than the first.
            area = smallest + (missing - smallest) * rng.random()
            aspect = math.exp(self.log_aspect * rng.uniform(-1, 1))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
                block = slice(top, top + h), slice(left, left + w)
                if 0 < h * w - np.count_nonzero(mask[block]) <= missing:
                    return block
        return None
