"""Dense probes of frozen patch features: patch k-NN and a linear classifier, in seconds.

Shape legend: N images, P patches of an image (h x w), D channels, C classes, M patches of the bank, S side in pixels.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from mmengine import dist
from mmengine.logging import print_log
from torch import Tensor, nn

from mmadclr.annotations import MaybeNone
from mmadclr.datasets.listing import built_alike
from mmadclr.datasets.loading import collate_samples
from mmadclr.distributed.agreement import together
from mmadclr.evaluation.dense import segmentation_scores
from mmadclr.evaluation.frozen import Encoder, frozen
from mmadclr.evaluation.image_account import ImageAccount
from mmadclr.evaluation.knn import knn_shares
from mmadclr.evaluation.patches import choose_patches, count_usable, over_masks, patch_batches, patch_labels
from mmadclr.registry import DATASETS, METRICS, ConfigOf

MAX_UNREADABLE = 100  # per image set
MAP_BYTES = 2**28
Classifier = Callable[[Tensor], Tensor]  # features (n, D) -> scores (n, C)
MaskedImagesConfig = Annotated[dict, ConfigOf('MaskedImageDataset')]


def confusion_matrix(prediction: Tensor, masks: Tensor, num_classes: int) -> Tensor:
    """(C, C) pixel counts, rows: true class, columns: prediction; ignored pixels (-1) excluded."""
    valid = masks >= 0
    codes = masks[valid] * num_classes + prediction[valid]
    return codes.bincount(minlength=num_classes**2).unflatten(0, (num_classes, num_classes))


def mean_iou(confusion: Tensor) -> float:
    """Mean intersection over union, in percent, over the annotated classes.

    A class that is only predicted increases the union of the confused classes; mmseg also counts it as an IoU of 0.

    Raises:
        ValueError: No pixel is annotated.
    """
    return 100 * segmentation_scores.mean_iou(confusion, 'annotated')


def fit_linear(features: Tensor, targets: Tensor, weights: Tensor, decay: float, steps: int) -> nn.Linear:
    """Softmax regression on features (M, D) with soft targets (M, C) and weights (M,), by L-BFGS from zero.

    The problem is convex, so there is neither learning rate nor seed. ``decay``: weight of half the squared norm.
    """
    # skip_init: the default initialization would advance the random generator of the training run.
    layer = nn.utils.skip_init(nn.Linear, features.shape[1], targets.shape[1], device=features.device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=steps, line_search_fn='strong_wolfe')

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = -(targets * layer(features).log_softmax(dim=1)).sum(dim=1)
        loss = (weights * losses).sum() / weights.sum() + decay / 2 * layer.weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return layer.requires_grad_(False)


@METRICS.register_module()
class DenseProbe:
    """mIoU of two classifiers of frozen patch features, both trained on patches and scored on pixels.

    ``patch_knn``: class shares of the nearest bank patches, weighted by ``exp(cosine / T)``.
    ``patch_linear``: softmax regression (a 1x1 convolution) on standardized features. Class maps are upsampled bilinearly.

    Args:
        train, val: Configs of ``MaskedImageDataset``; ``val`` inherits unspecified keys from ``train``.
        k, temperature: Of the k-NN.
        bank_size: Number of training patches kept, drawn at random with a fixed seed.
        decay, steps: See ``fit_linear``.
        batch_size, num_workers: Of the loader.

    Raises:
        ValueError: Masks that are missing, differ in size from their images, or have other labels; fewer than two classes in
            the masks of either part, which would make every score 100 %.
    """

    def __init__(
        self,
        train: MaskedImagesConfig,
        val: MaskedImagesConfig,
        k: int = 20,
        temperature: float = 0.07,
        bank_size: int = 20_000,
        decay: float = 1e-3,
        steps: int = 100,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        parts = [{'type': 'MaskedImageDataset', 'with_mask': True, **train, **part} for part in ({}, val)]
        self.train, self.val = built_alike(lambda: [DATASETS.build(part) for part in parts])
        self.k, self.temperature, self.bank_size = k, temperature, bank_size
        self.decay, self.steps = decay, steps
        self.batch_size, self.num_workers = batch_size, num_workers
        self._usable: dict[tuple[int, int], Tensor] = {}  # patches of every training image, by grid
        self.check_classes()

    def check_classes(self) -> None:
        """Reads all masks before features are computed, split over processes, and checks which classes occur."""
        learned, scored = (part.check_classes(self.label_counts(part)) for part in (self.train, self.val))
        if scored - learned:
            print_log(
                f'{self.val.mask_root}: classes {sorted(scored - learned)} do not occur in the training masks, so they '
                'cannot be predicted and their IoU is 0',
                'current',
                logging.WARNING,
            )

    def label_counts(self, dataset) -> Counter:
        """Pixels of every label, over the masks of all processes."""

        def read() -> Counter:
            total: Counter = Counter()
            for _, counts in over_masks(dataset.label_counts, len(dataset), self.num_workers):
                total.update(counts)
            return total

        return sum(dist.all_gather_object(together(read)), Counter())

    def of_model(self, model: nn.Module) -> dict[str, float]:
        """mIoU in percent of a pretraining model, using the patch features of its teacher."""
        with frozen(model) as encoder:
            bank = self.bank(encoder)
            totals = self.confusions(encoder, self.classifiers(*bank))
        return {name: mean_iou(total) for name, total in totals.items()}

    def classifiers(self, bank: Tensor, targets: Tensor, weights: Tensor) -> dict[str, Classifier]:
        """Both classifiers by the names of their metrics."""
        center, spread = bank.mean(dim=0), bank.std(dim=0).clamp(min=1e-6)
        linear = fit_linear((bank - center) / spread, targets, weights, self.decay, self.steps)
        directions = F.normalize(bank, dim=1)
        return {
            f'patch_knn{self.k}_T{self.temperature:g}_miou': lambda x: knn_shares(
                directions, targets, F.normalize(x, dim=1), self.k, self.temperature
            ),
            'patch_linear_miou': lambda x: linear((x - center) / spread),
        }

    def bank(self, model: Encoder) -> tuple[Tensor, Tensor, Tensor]:
        """Patches of the training images: features (M, D), class shares (M, C) and fractions of valid pixels (M,).

        The choice depends only on masks: it draws from their usable patches, and keeps only the features of the drawn ones.
        If images turn out to be unreadable, the draw is repeated without them.

        Raises:
            ValueError: No patch is left.
        """
        grid = self._grid(model)
        if grid not in self._usable:
            self._usable[grid] = count_usable(self.train, grid, self.num_workers)
        usable = self._usable[grid]
        while True:
            images, numbers = choose_patches(usable, self.bank_size)
            if not len(images):
                raise ValueError(f'{self.train.data_root}: no readable image has a pixel of any class')
            features, shares, covered, unreadable = self._rows(model, images, numbers, grid)
            lost = unreadable & (usable > 0)
            if not lost.any():
                return features, shares, covered
            usable[lost] = 0

    def _grid(self, model: Encoder) -> tuple[int, int]:
        """Patches of an image along both sides."""
        data = collate_samples([self.train[0]])
        return _square(model(**model.data_preprocessor(data, False), mode='patches').shape[1])

    def _rows(
        self, model: Encoder, images: Tensor, numbers: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Outputs of ``bank`` for the chosen patches, on all processes, and whether each image is unreadable (N,)."""
        order = images.argsort(stable=True)
        bounds = torch.searchsorted(images[order], torch.arange(len(self.train) + 1)).tolist()
        unreadable, account = torch.ones(len(self.train), dtype=torch.int64), ImageAccount()
        parts: list[Tensor] | MaybeNone = None  # until the first batch, and every process has one
        for batch in account.over(patch_batches(model, self.train, self.batch_size, self.num_workers)):
            if parts is None:
                widths = ((batch.outputs.shape[2],), (self.train.num_classes,), ())
                parts = [batch.outputs.new_zeros((len(images), *width), dtype=torch.float32) for width in widths]
            for features, mask, index in zip(batch.outputs, batch.masks, batch.indices.tolist(), strict=True):
                unreadable[index] = 0
                places = order[bounds[index] : bounds[index + 1]]
                found = _patches(features, mask, numbers[places], grid, self.train.num_classes) if len(places) else ()
                for part, rows in zip(parts, found, strict=False):
                    part[places.to(part.device)] = rows
        account.report(self.train, MAX_UNREADABLE)
        for part in parts:
            dist.all_reduce(part)  # each row is zero on all processes except one
        dist.all_reduce(unreadable, op='min')
        features, shares, covered = parts
        return features, shares, covered, unreadable.bool()

    def confusions(self, model: Encoder, classifiers: Mapping[str, Classifier]) -> dict[str, Tensor]:
        """(C, C) of every classifier over the pixels of all validation images."""
        classes, account = self.val.num_classes, ImageAccount()
        totals: dict[str, Tensor] = {}
        for batch in account.over(patch_batches(model, self.val, self.batch_size, self.num_workers)):
            features = batch.outputs.float()
            for name, classify in classifiers.items():
                scores = classify(features.flatten(0, 1)).unflatten(0, features.shape[:2])
                found = map_confusion(scores, batch.masks, classes)
                totals[name] = totals[name] + found if name in totals else found
        account.report(self.val, MAX_UNREADABLE)
        for total in totals.values():
            dist.all_reduce(total)
        return {name: total.cpu() for name, total in totals.items()}


def map_confusion(scores: Tensor, masks: Tensor, num_classes: int) -> Tensor:
    """``confusion_matrix`` of label maps (B, S, S) with patch scores (B, P, C), upsampled bilinearly.

    Processes as many images at a time as fit into ``MAP_BYTES`` after upsampling, at least one.
    """
    total = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=scores.device)
    at_a_time = max(1, MAP_BYTES // (4 * num_classes * masks[:1].numel() or 1))
    for some, labels in zip(scores.split(at_a_time), masks.split(at_a_time), strict=True):
        if len(some):
            maps = some.transpose(1, 2).unflatten(2, _square(some.shape[1]))
            prediction = F.interpolate(maps, size=labels.shape[1:], mode='bilinear').argmax(dim=1)
            total += confusion_matrix(prediction, labels.long(), num_classes)
    return total


def _patches(
    features: Tensor, mask: Tensor, numbers: Tensor, grid: tuple[int, int], num_classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """For one image: features, class shares and fractions of valid pixels of the usable patches with these ``numbers``."""
    shares, covered = patch_labels(mask[None], grid, num_classes)
    chosen = covered[0].nonzero().flatten()[numbers.to(mask.device)]
    return features[chosen].float(), shares[0, chosen], covered[0, chosen]


def _square(num_patches: int) -> tuple[int, int]:
    side = round(num_patches**0.5)
    return side, side
