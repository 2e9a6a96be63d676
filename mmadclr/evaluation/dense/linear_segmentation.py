"""Linear segmentation: one 1x1 convolution on frozen patch features, trained by published recipes.

Recipes: ``NECO`` (Leopart's and NeCo's), ``DINOV2``, ``DINOV3`` and ``IBOT``. Features and masks are passed in batches, so
that images can be augmented before features are computed; crops and flips are up to the caller, sliding windows are in
``sliding``.

Shape legend: B images of a batch, D channels, h x w patches, C classes, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmadclr.evaluation.dense.segmentation_scores import (
    VOID,
    Over,
    PixelCounts,
    SegmentationResult,
    check_masks,
    count_pixels,
    is_ignored,
    mean_iou,
)

LOGIT_BYTES = 2**29  # of enlarged logits at a time; a step takes a few times as much
Batch = tuple[Tensor, Tensor]  # features (B, D, h, w), label maps (B, H, W)


@dataclass(frozen=True)
class LinearRecipe:
    """How a head is trained and scored.

    ``optimizer``, ``lr``, ``momentum`` (SGD), ``betas`` (AdamW), ``weight_decay`` (on all parameters); ``batch_size``, the
    maximum per batch; ``epochs`` or ``iterations``, the other one 0. ``schedule``: ``'step'`` multiplies the learning rate
    by ``step_factor`` after ``step_epochs`` epochs; ``'poly'`` decreases it linearly to 0; ``'cosine'`` as half a cosine.
    ``warmup``: iterations of linear warm-up from ``warmup_ratio`` times the scheduled rate. ``lag``: iterations by which the
    schedule is late. ``norm``: batch norm before the convolution, with statistics of the batches of this process.
    ``dropout``: of full channels, before the norm.
    ``over_all_pixels``: whether the loss is the mean over all pixels, with 0 for ignored ones, or over the others.
    ``map_side``: size at which logits and masks are compared; None: that of the masks. ``over``: classes in the mean IoU.
    """

    optimizer: Literal['sgd', 'adamw']
    lr: float
    weight_decay: float
    schedule: Literal['step', 'poly', 'cosine']
    batch_size: int
    over: Over
    epochs: int = 0
    iterations: int = 0
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    step_epochs: int = 0
    step_factor: float = 0.1
    warmup: int = 0
    warmup_ratio: float = 1e-6
    lag: int = 0
    norm: bool = False
    dropout: float = 0.0
    over_all_pixels: bool = False
    map_side: int | None = None


# experiments/linear_segmentation/linear_finetune.py of vpariza/NeCo, and its config.
NECO = LinearRecipe(
    'sgd', 0.01, 1e-4, 'step', 128, 'all', epochs=25, momentum=0.9, step_epochs=20, step_factor=0.1, map_side=100
)
# dinov2_vits14_ade20k_linear_config.py, distributed beside DINOv2's heads: batch norm and a convolution. It has 2 images per
# GPU; 8 GPUs, mmseg's default, make 16. mmseg's loss is a mean over all pixels.
DINOV2 = LinearRecipe(
    'adamw', 1e-3, 1e-4, 'poly', 16, 'seen', iterations=40_000, warmup=1500, norm=True, over_all_pixels=True
)
# dinov3/eval/segmentation of facebookresearch/dinov3. The warm-up multiplies a linear decay, and the cosine starts at the
# first iteration; the scheduler is not stepped after that one, so every rate comes one iteration late.
DINOV3 = LinearRecipe(
    'adamw', 1e-3, 1e-3, 'cosine', 16, 'seen', iterations=40_000, warmup=1500, lag=1, norm=True, dropout=0.1
)
# evaluation/semantic_segmentation/configs/linear/vit_small_512_ade20k_160k.py of bytedance/ibot: four layers of the backbone
# in D, no norm (the config requests one, but its head has no layer that applies it).
IBOT = LinearRecipe('adamw', 3e-5, 0.05, 'poly', 16, 'seen', iterations=160_000, warmup=1500, over_all_pixels=True)


class ChannelDropout(nn.Module):
    """Sets channels of maps (B, D, h, w) to 0 while training, like ``torch.nn.Dropout2d``.

    Its numbers come from a generator on the CPU: the same on every device and process.
    """

    def __init__(self, rate: float, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.rate, self.generator = rate, generator

    def forward(self, maps: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return maps
        kept = torch.rand(maps.shape[:2], generator=self.generator) >= self.rate
        return maps * (kept[:, :, None, None].to(maps) / (1 - self.rate))


class LinearHead(nn.Module):
    """Features (B, D, h, w) -> logits (B, C, h, w).

    Weights are initialized from N(0, .01), biases to 0 (mmseg; dinov3's linear head). ``uniform`` initializes both as
    ``torch.nn.Conv2d`` does, like NeCo's head. ``generator``: of the weights, then of the dropout.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        recipe: LinearRecipe,
        generator: torch.Generator | None = None,
        uniform: bool = False,
    ) -> None:
        super().__init__()
        self.dropout = ChannelDropout(recipe.dropout, generator)
        self.norm = nn.BatchNorm2d(channels) if recipe.norm else nn.Identity()
        self.classify = nn.utils.skip_init(nn.Conv2d, channels, num_classes, 1)
        bound = channels**-0.5
        with torch.no_grad():
            if uniform:
                self.classify.weight.uniform_(-bound, bound, generator=generator)
                self.classify.bias.uniform_(-bound, bound, generator=generator)
            else:
                self.classify.weight.normal_(0, 0.01, generator=generator)
                self.classify.bias.zero_()

    def forward(self, features: Tensor) -> Tensor:
        return self.classify(self.norm(self.dropout(features)))


class LinearStep(NamedTuple):
    """One training step: ``loss`` before it, and its ``lr``."""

    loss: float
    lr: float


def rate_factor(recipe: LinearRecipe, iteration: int, per_epoch: int) -> float:
    """Learning-rate factor at an iteration, counted from 0, with ``per_epoch`` iterations per epoch."""
    iteration = max(iteration - recipe.lag, 0)
    if recipe.schedule == 'step':
        factor = recipe.step_factor if iteration // per_epoch >= recipe.step_epochs else 1.0
    else:
        done = iteration / (recipe.iterations or recipe.epochs * per_epoch)
        factor = 1 - done if recipe.schedule == 'poly' else (1 + math.cos(math.pi * done)) / 2
    if iteration < recipe.warmup:
        # mmcv's linear warm-up; DINOv3 multiplies it by a linear decay, independent of the schedule after it.
        regular = 1 - iteration / recipe.iterations if recipe.schedule == 'cosine' and recipe.iterations else factor
        return regular * (1 - (1 - iteration / recipe.warmup) * (1 - recipe.warmup_ratio))
    return factor


def resized_logits(logits: Tensor, masks: Tensor, recipe: LinearRecipe) -> tuple[Tensor, Tensor]:
    """Resizes logits (bilinear) and masks (nearest) to the size at which they are compared.

    NeCo upsamples features instead of logits. This is equivalent: a 1x1 convolution commutes with a weighted mean whose
    weights sum to 1.
    """
    size = masks.shape[1:] if recipe.map_side is None else (recipe.map_side,) * 2
    if masks.shape[1:] != size:
        masks = F.interpolate(masks[:, None].float(), size=size, mode='nearest')[:, 0]
    return F.interpolate(logits, size=size, mode='bilinear'), masks.long()


def segmentation_loss(
    logits: Tensor, masks: Tensor, ignore: Collection[int] = (VOID,), over_all_pixels: bool = False
) -> Tensor:
    """Mean cross-entropy over the pixels (B, H, W) that are not ignored, or over all, with 0 for ignored ones.

    Source: ``over_all_pixels`` is the default of mmseg's ``CrossEntropyLoss`` (``avg_non_ignore=False``).

    Raises:
        ValueError: All are ignored, and the mean is over the others.
    """
    ignored = torch.isin(masks, torch.tensor(sorted(ignore), dtype=torch.int64, device=masks.device))
    labels = masks.masked_fill(ignored, -1)
    if over_all_pixels:
        return F.cross_entropy(logits, labels, ignore_index=-1, reduction='sum') / labels.numel()
    if ignored.all():
        raise ValueError(f'no pixel of the batch has a label other than the ignored ones {sorted(ignore)}')
    return F.cross_entropy(logits, labels, ignore_index=-1)


def train_linear_head(
    head: LinearHead,
    epochs: Callable[[int], Iterable[Batch]],
    recipe: LinearRecipe,
    per_epoch: int,
    *,
    ignore: Collection[int] = (VOID,),
    after_epoch: Callable[[int], None] | None = None,
) -> Iterator[LinearStep]:
    """Trains a head; each item taken from this iterator is one step.

    Args:
        head: On the device of the features; with ``classify``, see :class:`LinearHead`.
        epochs: Returns the batches of an epoch, given its index.
        recipe: See :class:`LinearRecipe`.
        per_epoch: Number of batches per epoch.
        ignore: Labels whose pixels are ignored.
        after_epoch: Called with the index of an epoch after its last step.

    Raises:
        ValueError: An epoch with a different number of batches, unknown labels, or a batch without labels or with too many
            images.
    """
    optimizer = _optimizer(head, recipe)
    total, iteration = recipe.iterations or recipe.epochs * per_epoch, 0
    for epoch in range(-(-total // per_epoch)):
        taken = 0
        for features, masks in epochs(epoch):
            if iteration == total:
                break
            taken += 1
            lr = recipe.lr * rate_factor(recipe, iteration, per_epoch)
            yield LinearStep(_step(head, optimizer, features, masks, lr, recipe, ignore), lr)
            iteration += 1
        if iteration < total and taken != per_epoch:
            raise ValueError(f'epoch {epoch} has {taken} batches, but per_epoch={per_epoch}: must be the same')
        if after_epoch is not None:
            after_epoch(epoch)


def _optimizer(head: LinearHead, recipe: LinearRecipe) -> torch.optim.Optimizer:
    if recipe.optimizer == 'sgd':
        return torch.optim.SGD(head.parameters(), recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(head.parameters(), recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)


def _step(
    head: LinearHead,
    optimizer: torch.optim.Optimizer,
    features: Tensor,
    masks: Tensor,
    lr: float,
    recipe: LinearRecipe,
    ignore: Collection[int],
) -> float:
    for group in optimizer.param_groups:
        group['lr'] = lr
    check_masks(masks, head.classify.out_channels, ignore)
    if len(features) > recipe.batch_size:
        raise ValueError(f'a batch of {len(features)} images must have at most batch_size={recipe.batch_size}')
    head.train()
    with torch.enable_grad():
        logits = head(features)
        optimizer.zero_grad()
        loss = _backward(logits, masks, recipe, ignore)
    optimizer.step()
    return loss


def _backward(logits: Tensor, masks: Tensor, recipe: LinearRecipe, ignore: Collection[int]) -> float:
    """Loss of a batch, after its backward pass; enlarges the logits of as many images at a time as ``LOGIT_BYTES`` hold."""
    size = masks[0].numel() if recipe.map_side is None else recipe.map_side**2
    step = max(1, LOGIT_BYTES // (size * logits.shape[1] * logits.element_size()))
    if len(logits) <= step:
        loss = segmentation_loss(*resized_logits(logits, masks, recipe), ignore, recipe.over_all_pixels)
        loss.backward()
        return loss.item()
    counted = [_counted(some, recipe, ignore) for some in masks.split(step)]
    if not sum(counted):
        raise ValueError(f'no pixel of the batch has a label other than the ignored ones {sorted(ignore)}')
    apart, total = logits.detach().requires_grad_(), 0.0
    for some, labels, pixels in zip(apart.split(step), masks.split(step), counted, strict=True):
        if pixels:
            loss = segmentation_loss(*resized_logits(some, labels, recipe), ignore, recipe.over_all_pixels)
            loss = loss * (pixels / sum(counted))
            loss.backward()
            total += loss.item()
    logits.backward(apart.grad)
    return total


def _counted(masks: Tensor, recipe: LinearRecipe, ignore: Collection[int]) -> int:
    """Pixels that the loss is a mean over, at the size at which logits and masks are compared."""
    if recipe.map_side is not None:
        masks = F.interpolate(masks[:, None].float(), size=(recipe.map_side,) * 2, mode='nearest')[:, 0].long()
    return masks.numel() if recipe.over_all_pixels else int((~is_ignored(masks, ignore)).sum())


@torch.no_grad()
def evaluate_linear_head(
    head: LinearHead,
    batches: Iterable[Batch],
    recipe: LinearRecipe,
    *,
    ignore: Collection[int] = (VOID,),
    name: str = 'linear',
) -> SegmentationResult:
    """mIoU of label maps predicted by a head, over the recipe's classes. Metric: ``{name}_mIoU``.

    Args:
        head: See :class:`LinearHead`; left in evaluation mode.
        batches: Of the test images; the published loaders of NeCo drop the last incomplete one.
        recipe: Defines the size and the classes.
        ignore: Ignored labels.

    Raises:
        ValueError: No batch; see ``count_pixels``.
    """
    head.eval()
    parts = []
    for features, masks in batches:
        logits, labels = resized_logits(head(features), masks, recipe)
        parts.append(count_pixels(logits.argmax(dim=1), labels, head.classify.out_channels, ignore=ignore))
    if not parts:
        raise ValueError('there are no batches of test images')
    counts = PixelCounts(*(torch.cat(part) for part in zip(*parts, strict=True)))
    return SegmentationResult({f'{name}_mIoU': 100 * mean_iou(counts.confusion, recipe.over)}, counts)
