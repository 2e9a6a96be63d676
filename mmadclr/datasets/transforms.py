"""Geometric transforms, run in the loader's workers: one decoded image in, uint8 crops out.

Shape legend: V global views, L local views, Q query crops. Boxes are (left, top, right, bottom) in pixels of the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmadclr.datasets.photometric import NUM_PARAMS, PhotometricRecipe, build_recipe
from mmadclr.registry import TRANSFORMS

Box = tuple[int, int, int, int]
NUM_GLOBAL = 2


class ImageTooSmallError(ValueError):
    """The image has fewer pixels than a query crop."""


def random_resized_box(
    rng: np.random.Generator, within: Box, scale: tuple[float, float], ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> Box:
    """Box of random area (share ``scale`` of ``within``) and aspect, as ``torchvision.transforms.RandomResizedCrop``.

    After ten draws that do not fit, the largest central box of an allowed aspect.
    """
    left, top, right, bottom = within
    width, height = right - left, bottom - top
    log_ratio = np.log(ratio)
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(*log_ratio))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            x, y = left + int(rng.integers(width - w + 1)), top + int(rng.integers(height - h + 1))
            return x, y, x + w, y + h
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    x, y = left + (width - w) // 2, top + (height - h) // 2
    return x, y, x + w, y + h


def crop_and_resize(image: Image.Image, box: Box, size: int) -> np.ndarray:
    """Antialiased bicubic crop (3, size, size), uint8. Cropping first keeps pixels outside the box out of the filter."""
    resized = image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(resized).transpose(2, 0, 1)


@TRANSFORMS.register_module()
class MultiCrop:
    """Two global views, L local views and Q query crops of one image, with the photometric parameters of each.

    The crops are uint8; flips, colour and blur are *drawn* here but applied in batches by ``ViewPreprocessor``.

    Args:
        global_size, local_size, query_size: Sides in pixels.
        global_scale, local_scale, query_scale: Ranges of the share of the image's area.
        num_local, num_query: L and Q, independent, 0 allowed. ADCLR's own Q is not known; 10 is our reconstruction.
        query_source: ``'image'`` (boxes anywhere in the image, as in the authors' released code) or ``'view'`` (inside
            the first global view).
        query_photometric: ``'shared'`` (both views get the same pixels) or ``'per_view'`` (colour and blur drawn anew
            for each view, so that the cross-view term cannot be solved by copying pixels).
        global_1, global_2, local, query: Overrides of DINO's photometric recipes, keys of ``PhotometricRecipe``.

    Raises:
        ValueError: A count is negative, or an unknown choice or recipe key.
    """

    def __init__(
        self,
        global_size: int = 224,
        global_scale: tuple[float, float] = (0.25, 1.0),
        local_size: int = 96,
        local_scale: tuple[float, float] = (0.05, 0.25),
        num_local: int = 10,
        query_size: int = 16,
        query_scale: tuple[float, float] = (0.05, 0.25),
        num_query: int = 0,
        query_source: str = 'image',
        query_photometric: str = 'shared',
        global_1: dict | None = None,
        global_2: dict | None = None,
        local: dict | None = None,
        query: dict | None = None,
    ) -> None:
        if num_local < 0 or num_query < 0:
            raise ValueError(f'num_local={num_local}, num_query={num_query}: counts of crops cannot be negative')
        if query_source not in ('image', 'view'):
            raise ValueError(f"query_source={query_source!r}: choose 'image' or 'view'")
        if query_photometric not in ('shared', 'per_view'):
            raise ValueError(f"query_photometric={query_photometric!r}: choose 'shared' or 'per_view'")
        self.global_size, self.local_size, self.query_size = global_size, local_size, query_size
        self.global_scale, self.local_scale, self.query_scale = global_scale, local_scale, query_scale
        self.num_local, self.num_query = num_local, num_query
        self.query_source = query_source
        self.query_draws = NUM_GLOBAL if query_photometric == 'per_view' else 1
        self.global_recipes = [build_recipe('global_1', global_1), build_recipe('global_2', global_2)]
        self.local_recipe = build_recipe('local', local)
        self.query_recipe = build_recipe('query', query)

    def __call__(self, results: dict) -> dict:
        """``image`` (PIL, RGB) and ``rng`` -> ``*_views`` uint8, ``*_boxes`` int64, ``*_photometric`` float32."""
        image, rng = results.pop('image'), results.pop('rng')
        if self.num_query and min(image.size) < self.query_size:
            raise ImageTooSmallError(f'{image.width}x{image.height} pixels are fewer than a query crop of {self.query_size}')
        whole = (0, 0, *image.size)
        boxes = [random_resized_box(rng, whole, self.global_scale) for _ in range(NUM_GLOBAL)]
        results.update(self._views('global', image, boxes, self.global_size))
        results['global_photometric'] = _stack([recipe.draw(rng) for recipe in self.global_recipes])

        locals_ = [random_resized_box(rng, whole, self.local_scale) for _ in range(self.num_local)]
        results.update(self._views('local', image, locals_, self.local_size))
        results['local_photometric'] = _draws(rng, self.local_recipe, self.num_local)

        source = whole if self.query_source == 'image' else boxes[0]
        queries = [random_resized_box(rng, source, self.query_scale) for _ in range(self.num_query)]
        results.update(self._views('query', image, queries, self.query_size))
        draws = [_draws(rng, self.query_recipe, self.num_query) for _ in range(self.query_draws)]
        results['query_photometric'] = torch.stack(draws)  # (1 or V, Q, NUM_PARAMS)
        return results

    @staticmethod
    def _views(kind: str, image: Image.Image, boxes: Sequence[Box], size: int) -> dict[str, Tensor]:
        views = np.empty((len(boxes), 3, size, size), dtype=np.uint8)
        for view, box in zip(views, boxes, strict=True):
            view[:] = crop_and_resize(image, box, size)
        return {
            f'{kind}_views': torch.from_numpy(views),
            f'{kind}_boxes': torch.tensor(boxes, dtype=torch.int64).reshape(-1, 4),
        }


@TRANSFORMS.register_module()
class ResizeCentreCrop:
    """Short side to ``resize`` pixels (bicubic), then the central ``size`` x ``size`` pixels: the evaluation input."""

    def __init__(self, resize: int = 256, size: int = 224) -> None:
        if size > resize:
            raise ValueError(f'size={size} must not exceed resize={resize}')
        self.resize, self.size = resize, size

    def __call__(self, results: dict) -> dict:
        """``image`` (PIL, RGB) -> ``images`` uint8 (3, size, size)."""
        image = results.pop('image')
        results.pop('rng', None)
        factor = self.resize / min(image.size)
        # The longer side is truncated, as torchvision's Resize does.
        width, height = (self.resize if side == min(image.size) else int(side * factor) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        crop = image.crop((left, top, left + self.size, top + self.size))
        results['images'] = torch.from_numpy(np.asarray(crop).transpose(2, 0, 1).copy())
        return results


def _draws(rng: np.random.Generator, recipe: PhotometricRecipe, count: int) -> Tensor:
    return _stack([recipe.draw(rng) for _ in range(count)])


def _stack(draws: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(draws)) if draws else torch.empty(0, NUM_PARAMS)
