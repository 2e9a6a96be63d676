"""Antialiased bicubic crops of full images by matrix products, on any device.

Shape legend: B images, padded to H x W pixels; n crops of an image, of size x size pixels.

A crop is two products, with a matrix for each axis: ``crop = rows @ image @ columns.T``. Row x of such a matrix (size,
length of the axis) holds the weights of Pillow's filter (Resample.c: ``precompute_coeffs``, ``bicubic_filter``) for output
pixel x. For a box from ``start`` to ``stop``, with ``step = (stop - start) / size`` and ``wide = max(step, 1)``,

    weight[x, p] ~ cubic((p + 1/2 - start - (x + 1/2) step) / wide)    for start <= p < stop, else 0; the sum of a row is 1.

As in Pillow, the horizontal pass comes first and both round to 8 bits. Differences from it (bounds in the tests): Pillow's
weights are integers, and its recent versions take the vertical pass of tall boxes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mmadclr.models.preprocessors.plan import send_tensors

SHARPNESS = -0.5  # parameter a of the cubic of Keys (1981), as in Pillow
CHUNK_BYTES = 2**29  # limit for a chunk of images; a single image may exceed it


def crops_of(images: Sequence[Tensor], boxes: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """Crops of a batch, equal on all devices up to the order of single-precision sums.

    Images are processed in chunks of at most ``CHUNK_BYTES`` of memory, or of one image if that needs
    more (``image_bytes``). Does not synchronize with the device.

    Args:
        images: B uint8 tensors (3, H, W) on one device, each with its own size, in any memory layout.
        boxes: By kind of crop, int64 (B, n, 4) on the CPU: left, top, right, bottom in pixels. The filter ignores
            pixels outside.
        sizes: By kind, side of its crops.

    Returns:
        By kind, uint8 (B, n, 3, size, size) on the device of the images.

    Raises:
        ValueError: A box is empty or exceeds its image.
    """
    check_boxes(images, boxes)
    device = images[0].device
    there = send_tensors([some.float() for some in boxes], device)
    counts = [some.shape[1] for some in boxes]
    result = [
        torch.empty((len(images), count, 3, size, size), dtype=torch.uint8, device=device)
        for count, size in zip(counts, sizes, strict=True)
    ]
    with torch.no_grad(), full_precision(device.type):
        for first, last in chunks(images, counts, sizes):
            padded = pad(images[first:last])
            for out, some in zip(result, there, strict=True):
                if out.shape[1]:
                    out[first:last] = cut(padded, some[first:last], out.shape[-1])
    return result


def cut(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crops of padded images, by two batched matrix products.

    Args:
        images: Float (B, 3, H, W) in [0, 255].
        boxes: Float (B, n, 4) on the same device.
        size: Side of the crops.

    Returns:
        Float (B, n, 3, size, size) of integers in [0, 255].
    """
    batch, count, (height, width) = len(images), boxes.shape[1], images.shape[2:]
    left, top, right, bottom = boxes.flatten(0, 1).unbind(-1)
    columns = axis_weights(left, right, width, size).view(batch, count * size, width)
    middle = to_8_bits(columns @ images.flatten(1, 2).mT)  # (B, n * size, 3 * H)
    rows = axis_weights(top, bottom, height, size)
    crops = to_8_bits(middle.view(batch * count, size * 3, height) @ rows.mT)  # (B * n, size * 3, size): x, color, y
    return crops.view(batch, count, size, 3, size).permute(0, 1, 3, 4, 2)


def axis_weights(start: Tensor, stop: Tensor, length: int, size: int) -> Tensor:
    """(N, size, length): weight matrices of one axis, for boxes from ``start`` (N,) to ``stop`` (N,)."""
    step = ((stop - start) / size)[:, None]
    middles = torch.arange(size, device=start.device) + 0.5
    pixels = torch.arange(length, device=start.device) + 0.5
    places = start[:, None] + middles * step  # (N, size)
    distance = (pixels - places.unsqueeze(-1)).div_(step.clamp(min=1).unsqueeze(-1))
    weights = cubic(distance.abs_())
    inside = (pixels > start[:, None]) & (pixels < stop[:, None])
    weights.mul_(inside.unsqueeze(1))
    return weights.div_(weights.sum(-1, keepdim=True))


def cubic(distance: Tensor) -> Tensor:
    """The cubic filter at distances d >= 0; 0 from 2 on. Overwrites its argument.

    ``(a + 2) d^3 - (a + 3) d^2 + 1`` up to 1, which is 0 at 1, and from there ``a (d - 1) (d - 2)^2``, which is 0 at 1 and
    2: the filter is the sum of the first at ``min(d, 1)`` and the second at d clamped to [1, 2].
    """
    near, far = distance.clamp(max=1), distance.clamp_(1, 2)
    inner = (SHARPNESS + 2) * near
    inner.sub_(SHARPNESS + 3).mul_(near).mul_(near).add_(1)
    outer = torch.sub(far, 2, out=near).square_().mul_(far.sub_(1))
    return inner.add_(outer, alpha=SHARPNESS)


def to_8_bits(values: Tensor) -> Tensor:
    """Rounds half up and clamps to [0, 255], in place."""
    return values.add_(0.5).floor_().clamp_(0, 255)


def pad(images: Sequence[Tensor]) -> Tensor:
    """Float (B, 3, H, W) of images (3, H, W) with different sizes, zero-padded."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    padded = torch.zeros((len(images), 3, height, width), device=images[0].device)
    for target, image in zip(padded, images, strict=True):
        target[:, : image.shape[1], : image.shape[2]] = image
    return padded


def chunks(images: Sequence[Tensor], counts: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) index of images that fit into ``CHUNK_BYTES`` together, at least one."""
    first, height, width = 0, 0, 0
    for index, image in enumerate(images):
        height, width = max(height, image.shape[1]), max(width, image.shape[2])
        if index > first and (index + 1 - first) * image_bytes(height, width, counts, sizes) > CHUNK_BYTES:
            yield first, index
            first, height, width = index, *image.shape[1:]
    yield first, len(images)


def image_bytes(height: int, width: int, counts: Sequence[int], sizes: Sequence[int]) -> int:
    """Peak memory per image in bytes: the image itself, and all temporaries of :func:`cut` for one kind."""
    kinds = zip(counts, sizes, strict=True)
    # Three weight arrays of an axis coexist; those of rows also with the weights of columns and half-finished crops.
    works = [count * size * (3 * width + 3 * height + 3 * height + 3 * size) for count, size in kinds]
    return 4 * (3 * height * width + max(works, default=0))


def check_boxes(images: Sequence[Tensor], boxes: Sequence[Tensor]) -> None:
    """Raises ValueError for a box that is empty or exceeds its image: its weights would be NaN."""
    extents = np.array([(image.shape[2], image.shape[1]) for image in images])
    for some in boxes:
        start, stop = np.split(some.numpy(), 2, axis=-1)
        wrong = ((start < 0) | (stop <= start) | (stop > extents[:, None])).any(-1)
        if wrong.any():
            image, number = np.argwhere(wrong)[0].tolist()
            raise ValueError(
                f'box {some[image, number].tolist()} of image {image} of the batch is empty or exceeds its '
                f'{extents[image, 0]}x{extents[image, 1]} pixels'
            )


@contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """Matrix products in single precision, regardless of autocast and TF32: rounded weights would change crops by levels."""
    undo = _exact_products()
    try:
        with torch.autocast(device_type if torch.amp.is_autocast_available(device_type) else 'cpu', enabled=False):
            yield
    finally:
        undo()


def _exact_products() -> Callable[[], None]:
    """Disables TF32 and returns a function that restores it.

    Uses torch's older interface unless the newer one has been used: mixing them raises errors.
    """
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        settings = torch.backends.cuda.matmul
        newer, settings.fp32_precision = settings.fp32_precision, 'ieee'
        return partial(setattr, settings, 'fp32_precision', newer)
    torch.set_float32_matmul_precision('highest')
    return partial(torch.set_float32_matmul_precision, before)
