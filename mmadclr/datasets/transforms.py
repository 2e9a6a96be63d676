"""Geometric transforms for loader workers: one decoded image in, uint8 crops out.

Shape legend: V global views, L local views, Q query crops. Boxes are (left, top, right, bottom) in pixels of the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmadclr.config.components import Place
from mmadclr.config.findings import Finding
from mmadclr.datasets.conflicts import (
    crop_counts,
    device_conflicts,
    evaluated_backend_conflicts,
    scale_conflicts,
    size_conflicts,
    stored_size_conflicts,
)
from mmadclr.datasets.decoding import EncodedImage, Scratch
from mmadclr.datasets.masking import PatchMasking
from mmadclr.datasets.packed_images import FILE, PIXELS, Arena
from mmadclr.datasets.photometric_recipe import PhotometricRecipe, build_recipe
from mmadclr.datasets.shared_arrays import SharedArrays
from mmadclr.registry import TRANSFORMS, ConfigOf

RecipeConfig = Annotated[dict, ConfigOf(PhotometricRecipe)]

Box = tuple[int, int, int, int]
KINDS = ('global', 'local', 'query')
NUM_GLOBAL = 2
TYPICAL_PIXELS, TYPICAL_FILE = 500 * 375, 110_000  # approximate averages of ImageNet's training images
JPEG_SHRINKS = (8, 4, 2)  # denominators at which libjpeg decodes faster


class ImageTooSmallError(ValueError):
    """The image is smaller than a query crop."""


def random_resized_box(
    rng: np.random.Generator, within: Box, scale: tuple[float, float], ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> Box:
    """Box of random area (fraction ``scale`` of ``within``) and aspect, as in ``torchvision.transforms.RandomResizedCrop``.

    After ten failed attempts, the largest central box with an allowed aspect.
    """
    left, top, right, bottom = within
    width, height = right - left, bottom - top
    smallest, narrowest = scale[0], math.log(ratio[0])
    scale_span, log_span = scale[1] - smallest, math.log(ratio[1]) - narrowest
    for _ in range(10):
        area = width * height * (smallest + scale_span * rng.random())
        aspect = math.exp(narrowest + log_span * rng.random())
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            x, y = left + int(rng.integers(width - w + 1)), top + int(rng.integers(height - h + 1))
            return x, y, x + w, y + h
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    x, y = left + (width - w) // 2, top + (height - h) // 2
    return x, y, x + w, y + h


def crop_and_resize(image: Image.Image, box: Box, size: int) -> np.ndarray:
    """Antialiased bicubic crop (3, size, size), uint8, by Pillow. The filter ignores pixels outside the box."""
    resized = image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(resized).transpose(2, 0, 1)


@TRANSFORMS.register_module()
class MultiCrop:
    """Two global views, L local views and Q query crops of one image, with their photometric parameters.

    The crops are uint8; flips, color and blur are *drawn* here but applied in batches by ``ViewPreprocessor``. Boxes are
    drawn first, from the size in the file's header, so that a large JPEG is decoded only at the required resolution.

    Args:
        global_size, local_size, query_size: Sides in pixels.
        global_scale, local_scale, query_scale: Ranges of the fraction of the image's area.
        num_local, num_query: L and Q, independent, may be 0. ADCLR's own Q is not published; 10 is our reconstruction.
        query_source: ``'image'`` (boxes anywhere in the image, as in the authors' released code) or ``'view'`` (inside
            the first global view).
        query_photometric: ``'shared'`` (both views get the same pixels) or ``'per_view'`` (color and blur drawn separately
            for each view, so that the cross-view term cannot be solved by copying pixels).
        mask: Config of a ``PatchMasking`` (``BlockMasking``, ``RandomMasking``) for the global views, for methods that mask
            patches of the student; None disables it.
        global_1, global_2, local, query: Overrides of DINO's photometric recipes, keys of ``PhotometricRecipe``.
        backend: ``'fast'``, ``'device'``, or ``'pillow'``, which is bit-identical to the published form. ``'fast'`` is the
            filter of ``resize_into``. If a JPEG is large enough that every crop still has at least as many source pixels
            as output pixels, it is decoded at 1/2, 1/4 or 1/8; box edges then snap to pixels of the smaller image, by at
            most half an output pixel. ``'device'`` draws and decodes as ``'fast'`` but does not crop:
            full images go to the model's preprocessor (:mod:`mmadclr.models.preprocessors.device_crops`), for training on a
            GPU.
        decode: With ``backend='device'``, ``'device'`` decodes JPEG with TorchCodec on the model's device, and workers only
            read files (:mod:`mmadclr.models.preprocessors.packed_views`); ``'worker'`` decodes as the other backends do.

    Raises:
        ValueError: A negative count, an unknown choice or recipe key, or masks that do not match the global views.
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
        mask: dict | None = None,
        global_1: RecipeConfig | None = None,
        global_2: RecipeConfig | None = None,
        local: RecipeConfig | None = None,
        query: RecipeConfig | None = None,
        backend: str = 'fast',
        decode: str = 'worker',
    ) -> None:
        if num_local < 0 or num_query < 0:
            raise ValueError(f'num_local={num_local}, num_query={num_query}: numbers of crops must not be negative')
        if query_source not in ('image', 'view'):
            raise ValueError(f"query_source={query_source!r}: choose 'image' or 'view'")
        if query_photometric not in ('shared', 'per_view'):
            raise ValueError(f"query_photometric={query_photometric!r}: choose 'shared' or 'per_view'")
        check_backend(backend, decode)
        self.backend, self.decode_on_device = backend, decode == 'device'
        self._scratch, self._arrays, self.arena = Scratch(), SharedArrays(), Arena()
        self.global_size, self.local_size, self.query_size = global_size, local_size, query_size
        self.global_scale, self.local_scale, self.query_scale = global_scale, local_scale, query_scale
        self.num_local, self.num_query = num_local, num_query
        self.query_source = query_source
        self.query_draws = NUM_GLOBAL if query_photometric == 'per_view' else 1
        self.global_recipes = [build_recipe('global_1', global_1), build_recipe('global_2', global_2)]
        self.local_recipe = build_recipe('local', local)
        self.query_recipe = build_recipe('query', query)
        self.masking: PatchMasking | None = None if mask is None else TRANSFORMS.build(mask)
        if self.masking:
            self.masking.check_size(global_size)

    @classmethod
    def find_conflicts(cls, place: Place) -> Iterator[Finding]:
        """Checks crops against the backbone's patch size, and device-side settings against the preprocessor."""
        for kind, count in crop_counts(place.settings, NUM_GLOBAL).items():
            if count:
                yield from size_conflicts(place, f'{kind}_size')
            yield from scale_conflicts(place, f'{kind}_scale')
        if place.phase == 'train':
            yield from stored_size_conflicts(place)
        yield from device_conflicts(place)
        yield from evaluated_backend_conflicts(place)

    def __call__(self, results: dict, out: Any = None) -> dict:
        """Creates one sample.

        Args:
            results: ``image`` (PIL in RGB, or ``EncodedImage``), ``rng``, for masks with a start epoch ``epoch``, and
                anything else, which is passed through.
            out: Output buffers: by kind ('global', 'local', 'query') a uint8 tensor (number, size, size, 3). With
                ``backend='device'``, memory for the image instead.

        Returns:
            ``results`` with ``*_views`` uint8 (number, 3, size, size), ``*_boxes`` int64 (number, 4), and ``*_photometric``
            float32 (number, NUM_PARAMS), for queries (1 or V, Q, NUM_PARAMS); with ``mask`` also ``masks`` bool (V, h, w).
            With ``backend='device'``, instead of views, ``image_pixels`` uint8 (h, w, 3) or, undecoded, ``image_file`` uint8
            (bytes,), ``image_shrink``: factor by which the pixels are smaller than the image (to which boxes refer), and
            ``crop_sizes`` int64 (3,), sides by kind.

        Raises:
            ImageTooSmallError: The image is smaller than a query crop.
            DecodeError: The image is broken.
        """
        image, rng, epoch = results.pop('image'), results.pop('rng'), results.pop('epoch', None)
        width, height = image.size
        if self.num_query and min(width, height) < self.query_size:
            raise ImageTooSmallError(f'{width}x{height} pixels are smaller than a query crop of {self.query_size}')
        boxes, photometric = self.draw((0, 0, width, height), rng)
        if self.backend == 'device':
            results |= self._full_image(image, boxes, out)
        else:
            out = out if out is not None else {kind: crops[0] for kind, crops in self.allocate(1).items()}
            self._cut(image, boxes, out)
            results |= {f'{kind}_views': out[kind].permute(0, 3, 1, 2) for kind in KINDS}
        for kind in KINDS:
            results[f'{kind}_boxes'] = torch.tensor(boxes[kind], dtype=torch.int64).reshape(-1, 4)
            results[f'{kind}_photometric'] = torch.from_numpy(photometric[kind])
        if self.masking:
            results['masks'] = torch.from_numpy(self.masking.draw(rng, NUM_GLOBAL, self.global_size, epoch))
        return results

    def draw(self, extent: Box, rng: np.random.Generator) -> tuple[dict[str, list[Box]], dict[str, np.ndarray]]:
        """Boxes and photometric parameters by kind, for an image of this extent."""
        boxes, photometric = {}, {}
        boxes['global'] = [random_resized_box(rng, extent, self.global_scale) for _ in range(NUM_GLOBAL)]
        photometric['global'] = np.stack([recipe.draw(rng) for recipe in self.global_recipes])
        boxes['local'] = [random_resized_box(rng, extent, self.local_scale) for _ in range(self.num_local)]
        photometric['local'] = self.local_recipe.draw_rows(rng, self.num_local)
        source = extent if self.query_source == 'image' else boxes['global'][0]
        boxes['query'] = [random_resized_box(rng, source, self.query_scale) for _ in range(self.num_query)]
        draws = [self.query_recipe.draw_rows(rng, self.num_query) for _ in range(self.query_draws)]
        photometric['query'] = np.stack(draws)
        return boxes, photometric

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Number and side of the crops of an image, by kind."""
        counts = (NUM_GLOBAL, self.num_local, self.num_query)
        return dict(zip(KINDS, zip(counts, self.sides, strict=True), strict=True))

    @property
    def sides(self) -> list[int]:
        """Sides of the crops by kind."""
        return [self.global_size, self.local_size, self.query_size]

    def allocate(self, batch_size: int, shared: bool = False) -> dict[str, Tensor]:
        """Uninitialized uint8 arrays (B, number, size, size, 3) for the crops of a batch.

        Args:
            batch_size: B.
            shared: In reusable shared memory, for a worker process; see :mod:`mmadclr.datasets.shared_arrays`.
        """
        shapes = {kind: (batch_size, count, size, size, 3) for kind, (count, size) in self.sizes().items()}
        return self._arrays.take(shapes, shared)

    def batch_bytes(self, batch_size: int) -> int:
        """Bytes of the crops of one batch, which a worker holds in shared memory for each prefetched batch.

        With ``backend='device'`` an estimate: ``TYPICAL_PIXELS`` per image, or ``TYPICAL_FILE`` if files are not decoded.
        """
        if self.backend == 'device':
            return batch_size * (TYPICAL_FILE if self.decode_on_device else 3 * TYPICAL_PIXELS)
        return batch_size * sum(count * size * size * 3 for count, size in self.sizes().values())

    def _cut(self, image: Image.Image | EncodedImage, boxes: dict[str, list[Box]], out: dict[str, Tensor]) -> None:
        if isinstance(image, Image.Image) and self.backend == 'pillow':
            for kind in KINDS:
                for view, box in zip(out[kind].numpy(), boxes[kind], strict=True):
                    view[:] = crop_and_resize(image, box, view.shape[0]).transpose(1, 2, 0)
            return
        pixels, shrink = self._decode(image, boxes, self._scratch)
        source = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
        for kind in KINDS:
            views = out[kind].permute(0, 3, 1, 2).split(1)
            for view, box in zip(views, boxes[kind], strict=False):  # without views, split returns an empty one
                resize_into(view, source, box if shrink == 1 else _shrunk(box, shrink))

    def _full_image(self, image: Image.Image | EncodedImage, boxes: dict[str, list[Box]], arena: Arena | None) -> dict:
        """Entries of a sample that replace views to be cropped on the device."""
        pixels, shrink, content = np.empty((0, 0, 3), dtype=np.uint8), 1, b''
        if self.decode_on_device and isinstance(image, EncodedImage) and image.is_complete_upright_jpeg:
            content = image.data
        else:
            pixels, shrink = self._decode(image, boxes, arena)
            pixels = pixels if arena is None else arena.keep(pixels)
        file = np.frombuffer(content, np.uint8)
        return {PIXELS: pixels, FILE: file, 'image_shrink': shrink, 'crop_sizes': torch.tensor(self.sides)}

    def _decode(
        self, image: Image.Image | EncodedImage, boxes: dict[str, list[Box]], scratch: Scratch | None
    ) -> tuple[np.ndarray, int]:
        """Pixels (H, W, 3), and the factor by which they are smaller than the image."""
        if isinstance(image, Image.Image):
            return np.array(image), 1
        shrink = self._shrink(boxes)
        pixels = image.decode(shrink, scratch)
        return pixels, shrink if pixels.shape[1] < image.size[0] else 1

    def _shrink(self, boxes: dict[str, list[Box]]) -> int:
        """The smallest decoding scale at which every crop has at least as many source pixels as output pixels."""
        sides = [
            (min(right - left, bottom - top), size)
            for kind, (_, size) in self.sizes().items()
            for left, top, right, bottom in boxes[kind]
        ]
        # Rounding both edges may shrink a box by one pixel.
        return next((shrink for shrink in JPEG_SHRINKS if all(n >= shrink * (size + 1) for n, size in sides)), 1)


def check_backend(backend: str, decode: str) -> None:
    """Raises ValueError for unknown or conflicting choices."""
    if backend not in ('fast', 'device', 'pillow'):
        raise ValueError(f"backend={backend!r}: choose 'fast', 'device' or 'pillow'")
    if decode not in ('worker', 'device'):
        raise ValueError(f"decode={decode!r}: choose 'worker' or 'device'")
    if decode == 'device' and backend != 'device':
        raise ValueError(
            f"decode='device' with backend={backend!r}: crops are cut where images are decoded: set backend='device'"
        )


def resize_into(out: Tensor, image: Tensor, box: Box) -> None:
    """Antialiased bicubic crop as in ``crop_and_resize``, several times faster.

    torch's uint8 operator is a vectorized version of Pillow's filter: a horizontal, then a vertical pass with integer
    weights. It differs from Pillow's two passes in that order by at most 2 levels, and by 0.02 to 0.1 on average. Recent
    versions of Pillow run the vertical pass first for tall boxes; there, values next to an overshoot clipped at black or
    white differ more (in photographs about one value in ten thousand by 3 or more levels).

    Args:
        out: (1, 3, size, size) uint8 stored channels-last, overwritten.
        image: (1, 3, H, W) uint8 stored channels-last.
        box: The filter ignores pixels outside.
    """
    left, top, right, bottom = box
    part = image.narrow(2, top, bottom - top).narrow(3, left, right - left)
    torch.ops.aten._upsample_bicubic2d_aa.out(part, out.shape[-2:], False, None, None, out=out)


def _shrunk(box: Box, shrink: int) -> Box:
    """The box in pixels of a smaller image, edges rounded."""
    left, top, right, bottom = (round(edge / shrink) for edge in box)
    return left, top, right, bottom
