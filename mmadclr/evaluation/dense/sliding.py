"""Label maps of images of any size from square windows that overlap.

Source: ``slide_inference`` of open-mmlab/mmsegmentation, ``mmseg/models/segmentors/encoder_decoder.py``.

Shape legend: B windows, C classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Predict = Callable[[Tensor], Tensor]  # pixels (B, 3, h, w) -> logits (B, C, h, w)


def window_starts(length: int, side: int, stride: int) -> list[int]:
    """First pixels of the windows along an axis: every ``stride`` pixels, the last one moved back to end with the image."""
    count = 1 + -(-max(length - side, 0) // stride)
    return [max(min(number * stride, length - side), 0) for number in range(count)]


def slide_logits(predict: Predict, image: Tensor, side: int, stride: int, batch: int = 16) -> Tensor:
    """(C, H, W) logits of an image (3, H, W): the mean over all windows that contain a pixel.

    Args:
        predict: Of windows; they are smaller than ``side`` where the image is.
        image: Normalized.
        side, stride: Of the windows, in pixels.
        batch: Maximum number of windows per call.

    Raises:
        ValueError: Windows with gaps between them.
    """
    if not 1 <= stride <= side:
        raise ValueError(f'stride={stride} must be between 1 and the side {side} of a window')
    height, width = image.shape[1:]
    places = [(y, x) for y in window_starts(height, side, stride) for x in window_starts(width, side, stride)]
    total, counts = None, image.new_zeros(height, width)
    for start in range(0, len(places), batch):
        some = places[start : start + batch]
        found = predict(torch.stack([image[:, y : y + side, x : x + side] for y, x in some]))
        total = found.new_zeros(found.shape[1], height, width) if total is None else total
        for (y, x), logits in zip(some, found, strict=True):
            total[:, y : y + side, x : x + side] += logits
            counts[y : y + side, x : x + side] += 1
    assert total is not None
    return total / counts.to(total)
