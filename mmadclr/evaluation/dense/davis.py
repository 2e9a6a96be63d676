"""Video object segmentation without training: the mask of the first frame travels on by the similarity of patches.

Jabri et al., *Space-time correspondence as a contrastive random walk*, 2020, as ``eval_video_segmentation.py`` of
facebookresearch/dino runs it on DAVIS 2017. Scores are in :mod:`mmadclr.evaluation.dense.davis_scores`.

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
MEAN, STD = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)  # .228: as published; others have .229
LAST_FRAMES, RADIUS, TOPK, TEMPERATURE = 7, 12, 5, 0.1
BLOCK_BYTES = 2**27


def frame_size(size: tuple[int, int], short_side: int = SHORT_SIDE) -> tuple[int, int]:
    """Height and width at which a frame (H, W) enters the network: the long side is the multiple of 64 below its proportion.

    Of square frames the width is rounded; the published code rounds the other side of the mask there, and fails.

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
    antialiasing."""
    height, width = frame_size(frame.shape[:2], short_side)
    resized = cv2.resize(frame, (width, height)).astype(np.float32) / np.float32(255)
    return ((torch.from_numpy(resized) - torch.tensor(mean)) / torch.tensor(std)).permute(2, 0, 1)


def first_labels(mask: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """(C, h, w) one-hot labels of patches, from the mask (H, W) of the first frame by Pillow's nearest interpolation.

    C is 1 + the largest label that is left: an object that is too small to be hit has no channel of its own if its number is
    the highest, and cannot be found.

    Raises:
        ValueError: A mask that is not of small integers, or one without an object.
    """
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise ValueError(f'mask of shape {mask.shape} and type {mask.dtype}: must be (H, W), uint8')
    small = np.array(Image.fromarray(mask).resize(grid[::-1], Image.Resampling.NEAREST))
    if not small.any():
        raise ValueError(f'no object is left of the first mask on a grid of {grid[0]} x {grid[1]} patches')
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
    """Soft masks (C, h, w) of frames 1, 2, ..., as their features come.

    Each frame takes the masks of the first one and of the ``n_last`` before it, as they were propagated.

    Args:
        features: (P, D) patch features of every frame, the first included; (T, P, D) or an iterator.
        first: (C, h, w) labels of the first frame, see :func:`first_labels`.
        n_last: Frames that are remembered beside the first.
        radius: Only patches so far away count, in patches along both axes; 0: all.
        topk: Patches whose labels are averaged, over all frames jointly; those as similar as the last of them count, too.
        temperature: Of the weights, exp(cosine / temperature).

    Raises:
        ValueError: Fewer than two frames, features of another grid, settings out of range.
    """
    if n_last < 1 or radius < 0 or topk < 1 or not temperature > 0:
        settings = f'n_last={n_last}, radius={radius}, topk={topk}, temperature={temperature}'
        raise ValueError(f'{settings}: must be at least 1, 0 and 1, and above 0')
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
            raise ValueError(f'topk={topk} patches of {len(frame)}: must be at most those of one frame')
        directions = F.normalize(frame.float(), dim=1)
        if start is None:
            start = (directions, first.to(directions).flatten(1))
            continue
        sources, labels = zip(start, *context, strict=True)
        found = _propagated(directions, torch.cat(sources), torch.cat(labels, dim=1), grid, radius, topk, temperature)
        context.append((directions, found))
        yield found.unflatten(1, grid)
    if number < 1:
        raise ValueError(f'a video of {number + 1} frame(s): there must be one to propagate the first mask to')


def _propagated(
    target: Tensor, sources: Tensor, labels: Tensor, grid: tuple[int, int], radius: int, topk: int, temperature: float
) -> Tensor:
    """(C, P) labels for target patches (P, D), of sources (S, D) with labels (C, S); a block of targets at a time."""
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
    """Each channel (C, H, W) from its smallest to its largest value over the frame; channels of zeros stay.

    So a faint object can win over a sure background: published, and an option of :func:`decode_labels`.
    """
    low, high = soft.amin(dim=(1, 2), keepdim=True), soft.amax(dim=(1, 2), keepdim=True)
    spread = soft - low
    return torch.where(high > 0, spread / (high - low), soft)


def enlarged(soft: Tensor, patch_size: int) -> Tensor:
    """(C, h p, w p) bilinear enlargement of a soft mask (C, h, w)."""
    return F.interpolate(soft[None], scale_factor=patch_size, mode='bilinear', recompute_scale_factor=False)[0]


def decode_labels(soft: Tensor, patch_size: int, size: tuple[int, int], stretch: bool = True) -> np.ndarray:
    """(H, W) uint8 label of every pixel of the original frame.

    Args:
        soft: (C, h, w), not altered.
        patch_size: p.
        size: H and W, reached from (h p, w p) by Pillow's nearest interpolation, whose rounding torch does not share.
        stretch: Stretch each channel before the largest is taken, as published.
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
    """(T, H, W) uint8 masks of a video from that of its first frame (H, W), which is returned as frame 0.

    Raises:
        ValueError: See :func:`first_labels` and :func:`propagate_labels`.
    """
    soft = propagate_labels(features, first_labels(first_mask, grid), n_last, radius, topk, temperature)
    return np.stack([first_mask, *(decode_labels(each, patch_size, first_mask.shape, stretch) for each in soft)])
