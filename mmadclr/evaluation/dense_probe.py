"""How much frozen patch features tell about the class of every pixel: patch k-NN and a linear classifier, in seconds.

Shape legend: N images, P patches of an image (h x w), D channels, C classes, M patches of the bank, S side in pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmadclr.datasets.loader_workers import outlive_signals
from mmadclr.datasets.loading import collate_samples
from mmadclr.datasets.samplers import EpochSampler
from mmadclr.evaluation.features import gather_features
from mmadclr.evaluation.knn import knn_shares
from mmadclr.models.wrappers import unwrapped
from mmadclr.registry import DATASETS, METRICS, ConfigOf

MaskedImagesConfig = Annotated[dict, ConfigOf('MaskedImageDataset')]


def patch_labels(masks: Tensor, grid: tuple[int, int], num_classes: int) -> tuple[Tensor, Tensor]:
    """Label maps (N, S, S), -1 ignored -> shares of every class in every patch (N, P, C), and of valid pixels (N, P)."""
    valid = (masks >= 0).float()[:, None]
    one_hot = F.one_hot(masks.clamp(min=0), num_classes).permute(0, 3, 1, 2) * valid
    shares, covered = (F.adaptive_avg_pool2d(x.float(), grid).flatten(2).transpose(1, 2) for x in (one_hot, valid))
    return shares / covered.clamp(min=1e-12), covered[..., 0]


def confusion_matrix(prediction: Tensor, masks: Tensor, num_classes: int) -> Tensor:
    """(C, C) counts of pixels, row: true class, column: prediction; ignored pixels (-1) left out."""
    valid = masks >= 0
    codes = masks[valid] * num_classes + prediction[valid]
    return codes.bincount(minlength=num_classes**2).unflatten(0, (num_classes, num_classes))


def mean_iou(confusion: Tensor) -> float:
    """Mean over the classes that occur in the labels of intersection over union, in percent.

    A class that is only predicted takes from the union of those it is mistaken for; mmseg counts it as one more IoU of 0.

    Raises:
        ValueError: No class occurs.
    """
    hits, occurs = confusion.diag().double(), confusion.sum(1) > 0
    if not occurs.any():
        raise ValueError('no pixel of the labels belongs to a class: there is no mean IoU')
    union = confusion.sum(0) + confusion.sum(1) - hits
    return 100 * (hits[occurs] / union[occurs]).mean().item()


def fit_linear(features: Tensor, targets: Tensor, weights: Tensor, decay: float, steps: int) -> nn.Linear:
    """Softmax regression on features (M, D) with soft targets (M, C) and weights (M,), by L-BFGS from zero.

    The problem is convex, so there is neither learning rate nor seed. ``decay``: weight of half the squared norm.
    """
    # Without an initialisation of its own: that would draw from the generator of the training run.
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

    ``patch_knn``: every patch takes the class shares of its nearest patches of the bank, weighted ``exp(cosine / T)``.
    ``patch_linear``: softmax regression (a 1x1 convolution) on standardised features. Class maps are enlarged bilinearly.

    Args:
        train, val: Configs of ``MaskedImageDataset``; what is not given in ``val`` is as in ``train``.
        k, temperature: Of the k-NN.
        bank_size: Patches that are kept of the training images, drawn at random with a fixed seed.
        decay, steps: See ``fit_linear``.
        batch_size, num_workers: Of the loader.

    Raises:
        ValueError: Masks that are missing, of another size than their images, or of other labels; fewer than two classes in
            the masks of either part, so that there is nothing to learn and everything scores 100 %.
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
        self.train, self.val = (DATASETS.build({'type': 'MaskedImageDataset', **train, **part}) for part in ({}, val))
        self.k, self.temperature, self.bank_size = k, temperature, bank_size
        self.decay, self.steps = decay, steps
        self.batch_size, self.num_workers = batch_size, num_workers
        self.check_classes()

    def check_classes(self) -> None:
        """Reads all masks before time is spent on features, and says which classes occur where."""
        learnt, scored = (part.check_classes() for part in (self.train, self.val))
        if scored - learnt:
            print_log(
                f'{self.val.mask_root}: no pixel of the training masks is of the classes {sorted(scored - learnt)}, which '
                'occur here: nothing can find them, and their IoU is 0',
                'current',
                logging.WARNING,
            )

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """mIoU in percent for a pretraining model, whose patch features are those of its teacher."""
        bank, targets, weights = self.bank(model)
        centre, spread = bank.mean(dim=0), bank.std(dim=0).clamp(min=1e-6)
        linear = fit_linear((bank - centre) / spread, targets, weights, self.decay, self.steps)
        directions = F.normalize(bank, dim=1)
        classifiers = {
            f'patch_knn{self.k}_T{self.temperature:g}_miou': lambda x: knn_shares(
                directions, targets, F.normalize(x, dim=1), self.k, self.temperature
            ),
            'patch_linear_miou': lambda x: linear((x - centre) / spread),
        }
        features, indices = self.features(model, self.val)
        return {name: self.score(classify, features, indices.tolist()) for name, classify in classifiers.items()}

    def features(self, model: nn.Module, dataset) -> tuple[Tensor, Tensor]:
        """Patch features (N, P, D) of a data set, and the indices of its readable images (N,)."""
        sampler = EpochSampler(dataset, shuffle=False, seed=0)
        loader = DataLoader(
            dataset,
            self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate_samples,
            generator=torch.Generator(),  # else every pass would draw a seed from the generator of the training run
        )
        return gather_features(unwrapped(model), outlive_signals(loader), mode='patches')

    def bank(self, model: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        """Patches of the training images: features (M, D), class shares (M, C) and shares of valid pixels (M,)."""
        features, indices = self.features(model, self.train)
        grid = _square(features.shape[1])
        labels = [patch_labels(self.train.mask(i)[None], grid, self.train.num_classes) for i in indices.tolist()]
        targets, weights = (torch.cat(part).flatten(0, 1).to(features.device) for part in zip(*labels, strict=True))
        usable = weights.nonzero().flatten().cpu()
        chosen = usable[torch.randperm(len(usable), generator=torch.Generator().manual_seed(0))[: self.bank_size]]
        chosen = chosen.to(features.device)
        return features.flatten(0, 1)[chosen].float(), targets[chosen], weights[chosen]

    def score(self, classify: Callable[[Tensor], Tensor], features: Tensor, indices: Iterable[int]) -> float:
        """mIoU over the validation images of class scores (P, C) given by ``classify`` for features (P, D)."""
        classes, size = self.val.num_classes, self.val.size
        total = torch.zeros(classes, classes, dtype=torch.int64)
        for x, index in zip(features, indices, strict=True):
            scores = classify(x.float()).T.unflatten(1, _square(len(x)))
            prediction = F.interpolate(scores[None], size=(size, size), mode='bilinear')[0].argmax(dim=0)
            total += confusion_matrix(prediction.cpu(), self.val.mask(index), classes)
        return mean_iou(total)


def _square(num_patches: int) -> tuple[int, int]:
    side = round(num_patches**0.5)
    return side, side
