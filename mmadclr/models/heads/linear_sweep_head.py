"""LinearSweepHead: linear classifiers for many learning rates, trained simultaneously."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmadclr.models.containers import ModuleList
from mmadclr.registry import MODELS


@MODELS.register_module()
class LinearSweepHead(BaseModule):
    """Linear classifiers on shared features; a head of mmpretrain's ``ImageClassifier``.

    Finds the best learning rate in one pass over the data instead of one per rate (bytedance/ibot,
    ``eval_linear_multi.py``). The classifiers are independent: the loss is the sum of theirs, and
    ``LinearSweepOptimConstructor`` gives each its rate, so that each is the same as if trained alone. All start with the
    same weights, N(0, 0.01), and zero biases.

    Args:
        num_classes: Number C of classes.
        in_channels: Channels F of the features.
        learning_rates: Peak rate of each classifier, for a batch of ``auto_scale_lr.base_batch_size`` images.

    Raises:
        ValueError: No rates, rates that are not positive, or duplicates.
    """

    def __init__(self, num_classes: int, in_channels: int, learning_rates: Sequence[float]) -> None:
        super().__init__()
        rates = tuple(learning_rates)
        if not rates or min(rates) <= 0 or len(set(rates)) < len(rates):
            raise ValueError(f'learning_rates={list(rates)} must be one or more distinct positive rates')
        self.num_classes = num_classes
        self.learning_rates = rates
        self.classifiers = ModuleList(nn.Linear(in_channels, num_classes) for _ in rates)
        self.init_weights()

    def init_weights(self) -> None:
        first, *others = self.classifiers
        nn.init.normal_(first.weight, std=0.01)
        nn.init.zeros_(first.bias)
        for other in others:
            other.load_state_dict(first.state_dict())

    def forward(self, feats: tuple[Tensor]) -> Tensor:
        """Features (B, F), the last of a tuple -> logits (B, n, C) of all classifiers."""
        return torch.stack([classifier(feats[-1]) for classifier in self.classifiers], dim=1)

    def loss(self, feats: tuple[Tensor], data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Sum of the cross-entropies of all classifiers and, for logging, the lowest one."""
        target = torch.cat([sample.gt_label for sample in data_samples])
        losses = torch.stack([F.cross_entropy(classifier(feats[-1]), target) for classifier in self.classifiers])
        return {'loss': losses.sum(), 'lowest_cross_entropy': losses.detach().min()}

    def predict(self, feats: tuple[Tensor], data_samples: Sequence[Any]) -> Sequence[Any]:
        """Sets ``pred_label`` (n,) of every sample to the predictions of all classifiers."""
        for sample, labels in zip(data_samples, self(feats).argmax(dim=2), strict=True):
            sample.set_pred_label(labels)
        return data_samples
