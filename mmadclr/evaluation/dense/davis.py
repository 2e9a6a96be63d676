"""Video object segmentation without training: propagates the first frame's mask by patch similarity.

Jabri et al., *Space-time correspondence as a contrastive random walk*, 2020, as run on DAVIS 2017 by
``eval_video_segmentation.py`` of facebookresearch/dino. Scores are in :mod:`mmadclr.evaluation.dense.davis_scores`.

Shape legend: T frames, P patches of a frame (h x w), D channels, C channels of a soft mask (background and objects), H x W
pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

SHORT_SIDE, MULTIPLE = 480, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)  # .228 as published, instead of the usual .229
LAST_FRAMES, RADIUS, TOPK, TEMPERATURE = 7, 12, 5, 0.1
BLOCK_BYTES = 2**27


def frame_size(size: tuple[int, int], short_side: int = SHORT_SIDE) -> tuple[int, int]:
    """Height and width of the network input for a frame (H, W): the long side is rounded down to a multiple of 64.

    For square frames the width is rounded; the published code rounds the other side of the mask and fails.

    Raises:
        ValueError: A short side below 64.
    """
    if short_side < MULTIPLE:
        raise ValueError(f'short_side={short_side} must be at least {MULTIPLE}')
    height, width = size
    if height > width:
        return int(short_side * height / width // MULTIPLE * MULTIPLE), short_side
    return short_side, int(short_side * width / height // MULTIPLE * MULTIPLE)


def network_input(
    frame: np.ndarray, short_side: int = SHORT_SIDE, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> Tensor:
    """(3, h', w') normalized network input of a decoded frame (H, W, 3), RGB, uint8; resized by OpenCV without
    antialiasing.
    """
    height, width = frame_size(frame.shape[:2], short_side)
    resized = cv2.resize(frame, (width, height)).astype(np.float32) / np.float32(255)
    return ((torch.from_numpy(resized) - torch.tensor(mean)) / torch.tensor(std)).permute(2, 0, 1)


def first_labels(mask: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """(C, h, w) one-hot patch labels from the first frame's mask (H, W), by Pillow's nearest interpolation.

    C is 1 + the largest remaining label: if the object with the highest label is too small to survive the resizing, it has
    no channel and cannot be found.

    Raises:
        ValueError: The mask does not have dtype uint8, or has no object.
    """
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise ValueError(f'mask of shape {mask.shape} and type {mask.dtype}: must be (H, W), uint8')
    small = np.array(Image.fromarray(mask).resize(grid[::-1], Image.Resampling.NEAREST))
    if not small.any():
        raise ValueError(f'the first mask has no object on a grid of {grid[0]} x {grid[1]} patches')
    return F.one_hot(torch.from_numpy(small).long()).permute(2, 0, 1).float()


@torch.no_grad()
def propagate_labels(
    features: Iterable[Tensor],
    first: Tensor,
    n_last: int = LAST_FRAMES,
    radius: int = RADIUS,
    topk: int = TOPK,
    temperature: float = TEMPERATURE,
) -> Iterator[Tensor]:
    """Yields soft masks (C, h, w) of frames 1, 2, ..., as their features arrive.

    Each frame uses the mask of the first frame and the propagated masks of the ``n_last`` previous frames.

    Args:
        features: (P, D) patch features of every frame, including the first; (T, P, D) or an iterator.
        first: (C, h, w) labels of the first frame, see :func:`first_labels`.
        n_last: Number of context frames besides the first.
        radius: Maximum distance of source patches, in patches along both axes; 0: unlimited.
        topk: Number of patches whose labels are averaged, over all frames jointly; ties with the last one are included.
        temperature: Of the weights, exp(cosine / temperature).

    Raises:
        ValueError: Fewer than two frames, features of a different grid, settings out of range.
    """
    if n_last < 1 or radius < 0 or topk < 1 or not temperature > 0:
        settings = f'n_last={n_last}, radius={radius}, topk={topk}, temperature={temperature}'
        raise ValueError(f'{settings}: must be at least 1, 0, 1, and above 0')
    height, width = first.shape[1:]
    grid, number = (height, width), -1
    start: tuple[Tensor, Tensor] | None = None
    context: deque[tuple[Tensor, Tensor]] = deque(maxlen=n_last)
    for number, frame in enumerate(features):
        if frame.ndim != 2 or len(frame) != grid[0] * grid[1]:
            raise ValueError(
                f'features {tuple(frame.shape)} of frame {number} must be (P, D) on a grid of {grid[0]} x {grid[1]}'
            )
        if topk > len(frame):
            raise ValueError(f'topk={topk} must be at most the {len(frame)} patches of a frame')
        directions = F.normalize(frame.float(), dim=1)
        if start is None:
            start = (directions, first.to(directions).flatten(1))
            continue
        sources, labels = zip(start, *context, strict=True)
        found = _propagated(directions, torch.cat(sources), torch.cat(labels, dim=1), grid, radius, topk, temperature)
        context.append((directions, found))
        yield found.unflatten(1, grid)
    if number < 1:
        raise ValueError(f'a video of {number + 1} frame(s): there must be at least 2')


def _propagated(
    target: Tensor, sources: Tensor, labels: Tensor, grid: tuple[int, int], radius: int, topk: int, temperature: float
) -> Tensor:
    """(C, P) labels of target patches (P, D) from sources (S, D) with labels (C, S), in blocks of targets."""
    rows, columns = (axis.flatten().to(target.device) for axis in torch.meshgrid(*map(torch.arange, grid), indexing='ij'))
    frames, found = len(sources) // len(target), []
    for places in torch.arange(len(target), device=target.device).split(max(1, BLOCK_BYTES // (4 * len(sources)))):
        weights = (sources @ target[places].T / temperature).exp()
        if radius:
            near = ((rows[:, None] - rows[places]).abs() <= radius) & ((columns[:, None] - columns[places]).abs() <= radius)
            weights = weights.view(frames, *near.shape).mul_(near).flatten(0, 1)
        least = weights.topk(topk, dim=0).values[-1]
        weights = weights.masked_fill(weights < least, 0)
        found.append(labels @ (weights / weights.sum(dim=0)))
    return torch.cat(found, dim=1)


def stretched(soft: Tensor) -> Tensor:
    """Rescales each channel (C, H, W) from its minimum to its maximum over the frame; zero channels are unchanged.

    A faint object can thus win over confident background: as published, and optional in :func:`decode_labels`.
    """
    low, high = soft.amin(dim=(1, 2), keepdim=True), soft.amax(dim=(1, 2), keepdim=True)
    spread = soft - low
    return torch.where(high > 0, spread / (high - low), soft)


def enlarged(soft: Tensor, patch_size: int) -> Tensor:
    """Bilinear upsampling of a soft mask (C, h, w) to (C, h p, w p)."""
    return F.interpolate(soft[None], scale_factor=patch_size, mode='bilinear', recompute_scale_factor=False)[0]


def decode_labels(soft: Tensor, patch_size: int, size: tuple[int, int], stretch: bool = True) -> np.ndarray:
    """(H, W) uint8 label of every pixel of the original frame.

    Args:
        soft: (C, h, w), not modified.
        patch_size: p.
        size: H and W, resized from (h p, w p) by Pillow's nearest interpolation, which rounds differently from torch's.
        stretch: Rescale each channel before the argmax, as published.
    """
    maps = enlarged(soft, patch_size)
    labels = (stretched(maps) if stretch else maps).argmax(dim=0).to(torch.uint8).cpu().numpy()
    return np.array(Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST))


def segment_video(
    features: Iterable[Tensor],
    first_mask: np.ndarray,
    grid: tuple[int, int],
    patch_size: int,
    *,
    n_last: int = LAST_FRAMES,
    radius: int = RADIUS,
    topk: int = TOPK,
    temperature: float = TEMPERATURE,
    stretch: bool = True,
) -> np.ndarray:
    """(T, H, W) uint8 masks of a video from the mask of its first frame (H, W), which is returned as frame 0.

    Raises:
        ValueError: See :func:`first_labels` and :func:`propagate_labels`.
    """
    soft = propagate_labels(features, first_labels(first_mask, grid), n_last, radius, topk, temperature)
    return np.stack([first_mask, *(decode_labels(each, patch_size, first_mask.shape, stretch) for each in soft)])
