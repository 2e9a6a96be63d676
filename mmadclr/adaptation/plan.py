"""What an adaptation does, from the backbone, the number of images and the time: pure functions.

Every number is a starting point, not measured; docs/adapt.md says where it comes from.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

LEAST_IMAGES, FEW_IMAGES = 16, 2000
LEAST_STEPS, MOST_STEPS, MOST_EPOCHS = 100, 20_000, 100
PASSES = 4  # over the images of a run that has no time for all
MEASURED_IMAGES = 1000  # of the images, and of each split of those with masks
LEAST_MEASURED, LEAST_OFTEN = 64, 32
OFTEN_SHARE = 4  # one in this many images with masks is measured in the run
# Shares of the time: of the steps with a frozen backbone, and of measuring.
HEADS_SHARE, MEASURING_SHARE, MARGIN = 0.2, 0.25, 0.9
# Measuring an image takes this share of the time of training on it: three views forward, against two large and four small
# ones forward and backward, and the passes of teacher and original.
MEASURING_COST = 0.5
MASKED_COST = 0.2  # the same of an image with a mask: one view, and a part of the classifiers
EVALUATIONS = 10
# Prototypes for fewer than so many images.
PROTOTYPES = ((20_000, 1024), (50_000, 2048), (100_000, 4096), (200_000, 16_384), (500_000, 32_768), (math.inf, 65_536))
# Peak rate of the last block for 1024 images per step, up to this width.
RATES = ((384, 3e-4), (768, 2e-4), (math.inf, 1e-4))
HEAD_RATE = 1e-3
SMALL_DATA = 20_000  # images; with fewer only the last third of the blocks is trained


class Sizes(NamedTuple):
    """Sides in pixels: of patches, global and local views, and query crops."""

    patch: int
    large: int
    small: int
    query: int


class Masked(NamedTuple):
    """Numbers of images with masks: to learn from, and to score."""

    train: int
    val: int

    def limited(self, most: int) -> Masked:
        """At most so many of each."""
        return Masked(min(self.train, most), min(self.val, most))

    @property
    def cost(self) -> float:
        """In images without masks that take as long to measure."""
        return sum(self) * MASKED_COST / MEASURING_COST


class Plan(NamedTuple):
    """``images``: of the run, of ``available`` ones. ``batch``: of a step, over all ``processes``. ``measured``: images that
    are measured. ``masked``: those with masks, before and after the run, ``masked_often``: in it; None without masks.
    ``step_s``: measured time of a step in seconds. ``evaluations``: number of evaluations in the run. ``heads_epochs``: with
    a frozen backbone. ``left_s``: time for training and for the evaluations in the run, ``evaluation_s`` for each of these.
    """

    sizes: Sizes
    available: int
    images: int
    batch: int
    steps: int
    epochs: int
    heads_epochs: float
    prototypes: int
    lr: float
    frozen_blocks: int
    measured: int
    evaluations: int
    step_s: float
    processes: int
    masked: Masked | None
    masked_often: Masked | None
    left_s: float
    evaluation_s: float

    @property
    def training_s(self) -> float:
        return self.steps * self.step_s

    @property
    def spare_s(self) -> float:
        """Time that is left; negative if there is too little."""
        return self.left_s - self.training_s - self.evaluations * self.evaluation_s


def choose_sizes(patch: int, trained: tuple[int, int], size: int | None) -> Sizes:
    """Sides of views in whole patches: global ones of ``size``, by default 224 or what the weights were trained at.

    Local views are 3/7 of them, as 96 of 224; query crops have about 16 pixels.

    Raises:
        ValueError: ``size`` is not a multiple of the patch size, or below two patches.
    """
    large = min(224, *trained) // patch * patch if size is None else size
    if large % patch or large < 2 * patch:
        below = max(large // patch, 2) * patch
        raise ValueError(
            f'--size {large} must be a multiple of the patch size {patch} of the weights, at least {2 * patch}: {below} or '
            f'{below + patch}'
        )
    small, query = (max(1, round(side / patch)) * patch for side in (large * 3 / 7, 16))
    return Sizes(patch, large, small, min(query, large))


def choose_batch(images: int, on_gpu: bool, processes: int = 1) -> int:
    """Images per step of each process: 64 on a GPU, 16 without, and in all at most half of the images; a power of two.

    Raises:
        ValueError: Fewer images than ``LEAST_IMAGES``, or than two for each process.
    """
    if images < LEAST_IMAGES:
        raise ValueError(
            f'{images} images are too few to adapt to: at least {LEAST_IMAGES}, and below {FEW_IMAGES} an improvement is '
            'unlikely; use the original weights, or add images'
        )
    if images < 2 * processes:
        raise ValueError(f'{images} images are too few for {processes} processes: at most {images // 2}, or add images')
    return min(64 if on_gpu else 16, 2 ** int(math.log2(images / 2 / processes)))


def choose_prototypes(images: int) -> int:
    """Prototypes by the number of images: at most as many, but at least 64."""
    number = next(number for limit, number in PROTOTYPES if images < limit)
    return min(number, max(64, 2 ** int(math.log2(images))))


def choose_rate(width: int, batch: int) -> float:
    """Peak learning rate of the last block, by the width of the tokens and the square root of the batch."""
    return next(rate for limit, rate in RATES if width <= limit) * math.sqrt(batch / 1024)


def head_scale(width: int) -> float:
    """Rate of heads relative to that of the last block."""
    return HEAD_RATE / choose_rate(width, 1024)


def make_plan(
    sizes: Sizes,
    available: int,
    batch: int,
    arch: dict[str, Any],
    step_s: float,
    left_s: float,
    masks: Masked | None = None,
    processes: int = 1,
    epochs: int | None = None,
) -> Plan:
    """The plan for ``left_s`` seconds.

    Args:
        sizes: See :func:`choose_sizes`.
        available: Number of images.
        batch: Images per step, over all processes.
        arch: Sizes of the backbone.
        step_s: Measured time of a step.
        left_s: Time for training and measuring.
        masks: Numbers of images with masks; None without.
        processes: Number of processes.
        epochs: A chosen length, over all images; by default what the time allows.

    Raises:
        ValueError: The time is too short, and the length is not chosen; says the measured time of a step.
    """
    each_s = step_s / batch * MEASURING_COST
    measured, masked, often = choose_measured(available, masks, MEASURING_SHARE * left_s / 5 / each_s)
    whole_s, once_s = (each_s * (measured + (0 if some is None else some.cost)) for some in (masked, often))
    times = max(1, min(EVALUATIONS, int(MEASURING_SHARE * left_s / once_s) - 3))
    around_s = once_s + 3 * whole_s  # the original twice, the adapted and the random model
    measuring_s = times * once_s + around_s
    by_time = int(MARGIN * (left_s - measuring_s) / step_s)
    if epochs is None and by_time < LEAST_STEPS:
        raise ValueError(too_short(left_s, step_s, batch, measuring_s))
    steps = min(by_time, MOST_STEPS, max(LEAST_STEPS, MOST_EPOCHS * (available // batch)))
    images = available if epochs else min(available, max(1, steps // PASSES) * batch)
    epochs = epochs or max(1, steps // (images // batch))
    return Plan(
        sizes=sizes,
        available=available,
        images=images,
        batch=batch,
        steps=epochs * (images // batch),
        epochs=epochs,
        heads_epochs=HEADS_SHARE * epochs,
        prototypes=choose_prototypes(images),
        lr=choose_rate(arch['embed_dim'], batch),
        frozen_blocks=2 * arch['depth'] // 3 if images < SMALL_DATA else 0,
        measured=measured,
        evaluations=min(times, epochs),
        step_s=step_s,
        processes=processes,
        masked=masked,
        masked_often=often,
        left_s=left_s - around_s,
        evaluation_s=once_s,
    )


def choose_measured(available: int, masks: Masked | None, affordable: float) -> tuple[int, Masked | None, Masked | None]:
    """Number of images that are measured, and of those with masks, before and after the run and in it.

    Args:
        available, masks: See :func:`make_plan`.
        affordable: Images that five passes in a quarter of the time allow. At least 64 are measured; with masks, these
            get at most half.
    """
    if masks is None:
        return min(available, MEASURED_IMAGES, max(LEAST_MEASURED, int(affordable))), None, None
    each = max(LEAST_MEASURED, min(MEASURED_IMAGES, int(affordable / 4 * MEASURING_COST / MASKED_COST)))
    masked, often = (masks.limited(most) for most in (each, max(LEAST_OFTEN, each // OFTEN_SHARE)))
    measured = min(available, MEASURED_IMAGES, max(LEAST_MEASURED, int(affordable - masked.cost)))
    return measured, masked, often


def too_short(left_s: float, step_s: float, batch: int, measuring_s: float) -> str:
    """Why the time is too short, with the measured time of a step and the shortest time that is not."""
    needed = LEAST_STEPS * step_s / MARGIN + measuring_s
    return (
        f'--budget is too short: {shown(left_s)} are left, a step of {batch} images takes {step_s:.2g} s (measured), and a '
        f'run needs at least {LEAST_STEPS} steps and about {shown(measuring_s)} for measuring: give about '
        f'{shown(1.3 * needed)}, or a smaller --size'
    )


def shown(seconds: float) -> str:
    """A duration as ``2h05m``, ``12m`` or ``40s``."""
    if seconds < 100:
        return f'{math.ceil(seconds)}s'
    minutes = math.ceil(seconds / 60)
    return f'{minutes // 60}h{minutes % 60:02d}m' if minutes >= 60 else f'{minutes}m'


def describe(plan: Plan, method: str) -> list[tuple[str, str]]:
    """The plan in words: pairs of a name and a text."""
    sizes, few = plan.sizes, f', fewer than {FEW_IMAGES}: an improvement is unlikely' if plan.available < FEW_IMAGES else ''
    part = '' if plan.images == plan.available else f'{plan.images} drawn from '
    queries = f', query crops {sizes.query}' if method == 'adclr' else ''
    shared = '' if plan.processes == 1 else f' ({plan.batch // plan.processes} on each of {plan.processes} processes)'
    longer = '' if plan.spare_s >= 0 else '; with measuring, this is more than --budget'
    heads = f'; alone for the first {plan.heads_epochs / plan.epochs:.0%} of the steps' if plan.heads_epochs else ''
    return [
        ('method', method),
        ('images', f'{part}{plan.available}{few}'),
        ('views', f'{sizes.large} and {sizes.small} pixels{queries}; patches of {sizes.patch}'),
        ('length', f'{plan.steps} steps of {plan.batch} images{shared} = {plan.epochs} epochs'),
        ('time', f'{shown(plan.training_s)} of training: {plan.step_s:.2g} s a step (measured){longer}'),
        ('heads', f'{plan.prototypes} prototypes{heads}'),
        ('backbone', f'peak rate {plan.lr:.2g}; the first {plan.frozen_blocks} blocks are frozen'),
        ('measures', f'{plan.measured} images, {plan.evaluations} times in the run, before and after it'),
        *_describe_masks(plan.masked, plan.masked_often),
    ]


def _describe_masks(masked: Masked | None, often: Masked | None) -> list[tuple[str, str]]:
    if masked is None or often is None:
        return []
    before = f'mIoU of {masked.val} images, learned from {masked.train} others'
    return [('masks', f'{before}; in the run of {often.val}, from {often.train}')]
