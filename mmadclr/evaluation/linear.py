"""Linear classifiers on stored features, trained simultaneously for many learning rates.

The published protocols train on augmented images; stored features are those of center crops, so that 100 epochs take
minutes. Everything else follows them (facebookresearch/dino, ``eval_linear.py``; bytedance/ibot, ``eval_linear_multi.py``).
The published protocol itself, which runs the backbone on each augmented image, is implemented with mmengine's runner in
``evaluation/linear_sweep.py``. Both choose a rate by :func:`choose`.

Shape legend: N images, D channels, C classes, R learning rates, B images of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from mmengine import dist
from torch import Tensor

from mmadclr.datasets.subsets import held_out
from mmadclr.evaluation.rows import FeatureRows, FeatureSet

# iBOT's: {1..9} x 10^{-4..0}.
LEARNING_RATES = tuple(round(digit * 10.0**power, -power) for power in range(-4, 1) for digit in range(1, 10))
BASE_BATCH_SIZE = 256
HELD_OUT_IMAGES, LEAST_HELD_OUT, MOST_HELD_OUT = 2_000, 0.02, 0.2


@dataclass(frozen=True)
class LinearRecipe:
    """How classifiers are trained: SGD without weight decay, learning rates following a cosine to 0.

    Attributes:
        learning_rates: Peak rates for 256 images; scaled with ``batch_size``.
        epochs, batch_size, momentum: Of SGD. The last batch of an epoch may be smaller.
        held_out: Fraction of the training images used to choose the rate; ignored with a single rate. None: about 2,000
            images, at least 2 % and at most 20 %, because with a hundred images most rates tie.
        retrain: Train again at the chosen rate including the held-out images.
        seed: For initial weights, order of the images, and choice of the held-out ones.
    """

    learning_rates: tuple[float, ...] = LEARNING_RATES
    epochs: int = 100
    batch_size: int = 1024
    momentum: float = 0.9
    held_out: float | None = None
    retrain: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        rates = self.learning_rates
        if not rates or not 0 < min(rates) <= max(rates) < math.inf or len(set(rates)) < len(rates):
            raise ValueError(f'learning rates {list(rates)} must be one or more distinct positive numbers')
        if min(self.epochs, self.batch_size) < 1:
            raise ValueError(f'epochs={self.epochs}, batch_size={self.batch_size}: both must be at least 1')


class Classifiers(NamedTuple):
    """One classifier per learning rate: ``weight`` (R, C, D), ``bias`` (R, C)."""

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, R, C), in one matrix product."""
        flat = torch.addmm(self.bias.flatten(), features, self.weight.flatten(0, 1).T)
        return flat.unflatten(1, self.bias.shape)


class LinearResult(NamedTuple):
    """``metrics``: to report, in percent. ``table``: one row per learning rate. ``classifier``: the chosen one."""

    metrics: dict[str, float]
    table: list[dict]
    classifier: Classifiers


def initial_classifiers(num_rates: int, num_classes: int, dim: int, seed: int) -> Classifiers:
    """The same weights from N(0, 0.01) for every rate, and zero biases."""
    weight = torch.empty(num_classes, dim).normal_(0, 0.01, generator=torch.Generator().manual_seed(seed))
    return Classifiers(weight.repeat(num_rates, 1, 1), torch.zeros(num_rates, num_classes))


@torch.no_grad()
def train_classifiers(
    features: FeatureRows,
    labels: Tensor,
    num_classes: int,
    rates: Sequence[float],
    recipe: LinearRecipe,
    chosen: np.ndarray,
    device: torch.device | str,
) -> Classifiers:
    """Trains classifiers that share only the batches: each is the same as if trained alone, up to rounding.

    Args:
        features, labels: (N, D) and (N,).
        num_classes: C.
        rates: (R,) of the recipe's learning rates.
        recipe: All other settings.
        chosen: Rows to train on.
        device: For training; features are copied to it batch by batch.
    """
    classifiers = initial_classifiers(len(rates), num_classes, features.shape[1], recipe.seed)
    classifiers = Classifiers(*(part.to(device) for part in classifiers))
    momenta = Classifiers(*map(torch.zeros_like, classifiers))
    peaks = torch.tensor(rates, device=device) * recipe.batch_size / BASE_BATCH_SIZE
    for epoch in range(recipe.epochs):
        current = peaks * (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2
        order = chosen[np.random.default_rng((recipe.seed, epoch)).permutation(len(chosen))]
        for rows in np.split(order, range(recipe.batch_size, len(order), recipe.batch_size)):
            x, y = features[rows].to(device).float(), labels[rows].to(device)
            sgd_step(classifiers, momenta, gradients(classifiers, x, y), current, recipe.momentum)
    return classifiers


def gradients(classifiers: Classifiers, features: Tensor, labels: Tensor) -> Classifiers:
    """Closed-form gradients of each classifier's mean cross-entropy on features (B, D) with labels (B,)."""
    errors = classifiers.logits(features).softmax(dim=2)
    errors[torch.arange(len(labels)), :, labels] -= 1
    errors /= len(labels)
    return Classifiers((errors.flatten(1).T @ features).view_as(classifiers.weight), errors.sum(dim=0))


def sgd_step(classifiers: Classifiers, momenta: Classifiers, gradients: Classifiers, rates: Tensor, momentum: float) -> None:
    """One in-place SGD step, as ``torch.optim.SGD`` with one group per learning rate (R,).

    ``torch.optim.SGD`` would need R groups of separate parameters. Stacked classifiers are one parameter with R rates,
    trained by two matrix products and four operations per step, independent of R.
    """
    for parameter, buffer, gradient in zip(classifiers, momenta, gradients, strict=True):
        buffer.mul_(momentum).add_(gradient)
        parameter.addcmul_(buffer, -rates.view(-1, *[1] * (parameter.ndim - 1)))


@torch.no_grad()
def accuracies(
    classifiers: Classifiers, features: FeatureRows, labels: Tensor, chosen: np.ndarray, batch_size: int
) -> Tensor:
    """Top-1 and top-5 accuracy in percent (R, 2) on the rows ``chosen``.

    Classes with tied logits rank first, as do all classes next to NaN: a diverged classifier is always wrong.
    """
    hits = torch.zeros(len(classifiers.bias), 2, dtype=torch.int64, device=classifiers.bias.device)
    for rows in np.split(chosen, range(batch_size, len(chosen), batch_size)):
        logits = classifiers.logits(features[rows].to(hits.device).float())
        own = labels[rows].to(hits.device)[:, None, None].expand(-1, logits.shape[1], 1)
        ahead = (~(logits < logits.gather(2, own))).sum(dim=2) - 1
        hits += torch.stack([(ahead < top).sum(dim=0) for top in (1, 5)], dim=1)
    return 100 * hits.cpu().double() / len(chosen)


def evaluate_linear(train: FeatureSet, val: FeatureSet, recipe: LinearRecipe, device: torch.device | str) -> LinearResult:
    """Trains a classifier for every learning rate and scores the one that is best on held-out training images.

    Each process trains some of the rates on all images. Metrics: ``linear_top1`` and ``linear_top5`` at the rate chosen on
    held-out images, ``linear_lr`` that rate, ``linear_top1_held_out`` its accuracy there; ``linear_top1_best_on_val`` the
    best of all rates on the validation images, as in the published evaluations, and its rate
    ``linear_lr_best_on_val``. Ties go to the smallest rate; all at the last epoch.

    Raises:
        ValueError: Every rate diverged, or no images can be held out to choose one.
    """
    held = _held_out(train, recipe)
    rates = sorted(recipe.learning_rates)[dist.get_rank() :: dist.get_world_size()]
    table, classifiers = [], None
    if rates:
        classifiers = _train(train, rates, recipe, np.flatnonzero(~held), device)
        table = _score(classifiers, rates, train, val, held, recipe)
    table = sorted((row for part in dist.all_gather_object(table) for row in part), key=lambda row: row['lr'])
    best, best_on_val = choose(table, 'held_out_top1' if held.any() else 'top1'), choose(table, 'top1')
    if recipe.retrain and held.any():
        classifier = _train(train, [best['lr']], recipe, np.arange(len(train.labels)), device)
        (retrained,) = _score(classifier, [best['lr']], train, val, held, recipe)
        best = {**retrained, 'held_out_top1': best['held_out_top1']}
    else:
        mine = _pick(classifiers, rates.index(best['lr'])) if classifiers is not None and best['lr'] in rates else None
        classifier = next(found for found in dist.all_gather_object(mine) if found is not None)
    metrics = dict(linear_top1=best['top1'], linear_top5=best['top5'], linear_lr=best['lr'])
    if held.any():
        metrics |= dict(linear_top1_held_out=best['held_out_top1'])
        metrics |= dict(linear_top1_best_on_val=best_on_val['top1'], linear_lr_best_on_val=best_on_val['lr'])
    return LinearResult(metrics, table, classifier)


def choose(table: Sequence[dict], key: str) -> dict:
    """The row with the highest ``key`` among those that did not diverge; ties go to the first.

    Raises:
        ValueError: All diverged.
    """
    sound = [row for row in table if not row['diverged']]
    if not sound:
        raise ValueError('the classifiers diverged at all learning rates: choose smaller ones (--lr)')
    return max(sound, key=lambda row: row[key])


def default_held_out(num_images: int) -> float:
    """Fraction of the training images used to choose a rate."""
    return min(max(HELD_OUT_IMAGES / num_images, LEAST_HELD_OUT), MOST_HELD_OUT)


def _held_out(train: FeatureSet, recipe: LinearRecipe) -> np.ndarray:
    if len(recipe.learning_rates) == 1:
        return np.zeros(len(train.labels), dtype=bool)
    share = default_held_out(len(train.labels)) if recipe.held_out is None else recipe.held_out
    held = held_out(train.labels, share, recipe.seed)
    if not held.any():
        raise ValueError(
            'no class has two training images, so none can be held out to choose the learning rate: pass one rate (--lr)'
        )
    return held


def _train(
    train: FeatureSet, rates: Sequence[float], recipe: LinearRecipe, chosen: np.ndarray, device: torch.device | str
) -> Classifiers:
    labels = torch.from_numpy(train.labels)
    return train_classifiers(train.rows, labels, len(train.classes), rates, recipe, chosen, device)


def _score(
    classifiers: Classifiers,
    rates: Sequence[float],
    train: FeatureSet,
    val: FeatureSet,
    held: np.ndarray,
    recipe: LinearRecipe,
) -> list[dict]:
    """One row of the table per rate."""
    found: dict[str, tuple[FeatureSet, np.ndarray]] = {'': (val, np.arange(len(val.labels)))}
    if held.any():
        found['held_out_'] = (train, np.flatnonzero(held))
    finite = (classifiers.weight.isfinite().flatten(1).all(dim=1) & classifiers.bias.isfinite().all(dim=1)).tolist()
    rows = [{'lr': rate, 'diverged': not sound} for rate, sound in zip(rates, finite, strict=True)]
    for prefix, (images, chosen) in found.items():
        scores = accuracies(classifiers, images.rows, torch.from_numpy(images.labels), chosen, recipe.batch_size)
        for row, (top1, top5) in zip(rows, scores.tolist(), strict=True):
            row |= {f'{prefix}top1': top1, f'{prefix}top5': top5}
    return rows


def _pick(classifiers: Classifiers, number: int) -> Classifiers:
    """One of the classifiers, on the CPU."""
    return Classifiers(*(part[number : number + 1].cpu().clone() for part in classifiers))
