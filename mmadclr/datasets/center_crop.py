"""Evaluation input: resized short side and center crop, with two backends that differ by at most 2 levels."""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmadclr.config.components import Place
from mmadclr.config.findings import Finding
from mmadclr.datasets.conflicts import evaluated_backend_conflicts, size_conflicts
from mmadclr.datasets.decoding import EncodedImage, Scratch
from mmadclr.datasets.shared_arrays import SharedArrays
from mmadclr.registry import TRANSFORMS

Box = tuple[int, int, int, int]
BACKENDS = ('fast', 'pillow')
MAX_RESIZED = 2**25  # maximum pixels of a full resized image; one of 60000x1 would take gigabytes


def short_side(size: int) -> int:
    """Short side before a center crop of ``size`` pixels: 8/7 of it, 256 for 224."""
    return round(size * 8 / 7)


def check_backend(backend: str) -> str:
    """Returns a valid backend.

    Raises:
        ValueError: Unknown backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}: choose 'fast' or 'pillow'")
    return backend


@TRANSFORMS.register_module()
class ResizeCenterCrop:
    """Evaluation input: short side resized to ``resize`` pixels (bicubic), then a ``size`` x ``size`` center crop.

    Sizes match ``torchvision.transforms.Resize`` and ``CenterCrop``, and so do pixels with ``backend='pillow'``.

    Args:
        resize, size: In pixels.
        backend: ``'fast'`` or ``'pillow'``, which is bit-identical to the published form. ``'fast'`` decodes as
            ``EncodedImage`` does and filters with torch's 8-bit operator, a vectorized version of Pillow's filter: on
            photographs, differences from Pillow are at most 2 levels, and .01 on average. JPEG is decoded at
            full size: decoding large files at 1/2, 1/4 or 1/8 would change crops by .3 to 1.2 levels on average.

    Raises:
        ValueError: ``size`` exceeds ``resize``, or unknown backend.
    """

    needs_rng = False

    def __init__(self, resize: int = 256, size: int = 224, backend: str = 'fast') -> None:
        if size > resize:
            raise ValueError(f'size={size} must not exceed resize={resize}')
        self.resize, self.size, self.backend = resize, size, check_backend(backend)
        self._decoded, self._filter, self._arrays = Scratch(), CropFilter(), SharedArrays()

    @classmethod
    def find_conflicts(cls, place: Place) -> Iterator[Finding]:
        """Checks the size against the backbone's patch size."""
        yield from size_conflicts(place, 'size')
        yield from evaluated_backend_conflicts(place)

    def __call__(self, results: dict, out: dict[str, Tensor] | None = None) -> dict:
        """Crops one image.

        Args:
            results: ``image`` (PIL in RGB, or with the fast backend ``EncodedImage``), and anything else.
            out: Output buffer: ``images``, a uint8 tensor (3, size, size).

        Returns:
            ``results`` with ``images`` uint8 (3, size, size).

        Raises:
            DecodeError: The image is broken.
        """
        image = results.pop('image')
        results.pop('rng', None)
        results.pop('epoch', None)
        short = min(image.size)
        # Multiply before dividing: 98 pixels times the rounded factor 256 / 49 are 511.99..., which loses a row.
        width, height = (int(self.resize * side / short) for side in image.size)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        images = self.allocate(1)['images'][0] if out is None else out['images']
        crop = self._crop(image, (width, height), (left, top, left + self.size, top + self.size))
        cv2.split(crop, list(images.numpy()))  # twice as fast as copying a transposed array
        results['images'] = images
        return results

    def allocate(self, batch_size: int, shared: bool = False) -> dict[str, Tensor]:
        """Uninitialized ``images`` of a batch, (B, 3, size, size) uint8; ``shared`` as for ``MultiCrop``."""
        return self._arrays.take({'images': (batch_size, 3, self.size, self.size)}, shared)

    def _crop(self, image: Image.Image | EncodedImage, size: tuple[int, int], box: Box) -> np.ndarray:
        if isinstance(image, EncodedImage):
            pixels = image.decode(1, self._decoded)
        elif self.backend == 'pillow':
            return _pillow_crop(image, size, box)
        else:
            pixels = np.array(image)
        if math.prod(size) > MAX_RESIZED:
            return _pillow_crop(Image.fromarray(pixels), size, box)
        return self._filter(pixels, size, box)


def _pillow_crop(image: Image.Image, size: tuple[int, int], box: Box) -> np.ndarray:
    """The given box of the image resized to ``size``: uint8 (h, w, 3)."""
    if math.prod(size) > MAX_RESIZED:
        crop = _resized_part(image, size, box)
    else:
        crop = image.resize(size, Image.Resampling.BICUBIC).crop(box)
    return np.asarray(crop)


class CropFilter:
    """Antialiased bicubic resizing that computes only a box of the result, in reused memory.

    Calls the two passes of torch's operator separately: the horizontal one for the rows that the vertical one needs, and
    both up to the last column and row of the box. Coordinates start at the upper left corner, so nothing can be skipped
    on that side. Values equal those of the full resized image.
    """

    def __init__(self) -> None:
        self._wide, self._both = Scratch(), Scratch()

    def __call__(self, pixels: np.ndarray, size: tuple[int, int], box: Box) -> np.ndarray:
        """The given box of pixels (H, W, 3) uint8 resized to ``size`` (width, height): uint8 (h, w, 3).

        Valid until the next call.
        """
        (height, width), (left, top, right, bottom) = pixels.shape[:2], box
        first, last = _source_rows(top, bottom, height / size[1])
        last = min(last, height)
        columns, rows = _outputs(right, width, size[0]), _outputs(bottom, last, size[1])
        wide = _channels_last(self._wide, last, columns)
        both = _channels_last(self._both, rows, columns)
        source = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)[:, :, first:last]
        resize = torch.ops.aten._upsample_bicubic2d_aa.out
        resize(source, [last - first, columns], False, None, size[0] / width, out=wide[:, :, first:])
        resize(wide, [rows, columns], False, size[1] / height, None, out=both)
        return both[0].permute(1, 2, 0).numpy()[top:bottom, left:right]


def _source_rows(top: int, bottom: int, scale: float) -> tuple[int, int]:
    """First row and end of the source rows that the filter needs for output rows ``top`` to ``bottom``."""
    support = 2 * max(scale, 1)
    return max(math.floor(scale * (top + 0.5) - support) - 1, 0), math.ceil(scale * (bottom - 0.5) + support) + 1


def _outputs(needed: int, given: int, full: int) -> int:
    """Rows to request: if input and output sizes are equal, the operator copies regardless of the scale."""
    return needed + 1 if needed == given != full else needed


def _channels_last(memory: Scratch, height: int, width: int) -> Tensor:
    """(1, 3, height, width) uint8 with arbitrary content."""
    return torch.from_numpy(memory.get(height * width * 3)).view(1, height, width, 3).permute(0, 3, 1, 2)


def _resized_part(image: Image.Image, size: tuple[int, int], box: Box) -> Image.Image:
    """``image.resize(size).crop(box)`` without computing the rest, up to rounding: the filter still sees pixels outside."""
    edges = (edge * image.size[i % 2] / size[i % 2] for i, edge in enumerate(box))
    left, top, right, bottom = (min(edge, image.size[i % 2]) for i, edge in enumerate(edges))
    size = box[2] - box[0], box[3] - box[1]
    return image.resize(size, Image.Resampling.BICUBIC, box=(left, top, right, bottom))
