"""Measures of the original, the adapted and a random backbone on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmadclr.datasets import ImageDataset
from mmadclr.evaluation.adaptation import (
    Comparison,
    Measured,
    compare,
    encoder_of,
    measure_backbone,
    random_twin,
    sample_images,
)
from mmadclr.evaluation.adaptation.views import Views
from mmadclr.evaluation.extraction import Loading
from mmadclr.hub.opening import OpenedBackbone, open_backbone
from mmadclr.registry import DATASETS

SATURATED = 99.0  # percent


class Measurer:
    """Measures backbones as ``AdaptationMeasures`` does with the same settings."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.dataset: ImageDataset = DATASETS.build(dict(settings['dataset']))
        self.indices = sample_images(len(self.dataset), settings['images'], settings['seed'])
        self.views, self.loading = Views(settings['seed']), Loading(settings['batch_size'], settings['num_workers'])

    def measure(self, opened: OpenedBackbone, name: str) -> Measured:
        encoder = encoder_of(opened)
        return measure_backbone(encoder, self.dataset, self.loading, self.indices, self.views, name=name)

    def compare(self, original: Measured | None, weights: str | Path, adapted: str | Path) -> Comparison:
        """The comparison of weights before and after, and of random ones; measures the original if it is None."""
        opened = open_backbone(weights)
        before = original or self.measure(opened, 'the original model')
        after = self.measure(open_backbone(adapted, prefix='teacher.backbone'), 'the adapted model')
        return compare(before, after, self.measure(random_twin(opened), 'the random model'))


def leading_measure(original: Measured) -> str:
    """The measure by which the best checkpoint is kept: k-NN with labels, else retrieval, or the agreement of patches where
    the original already retrieves nearly every image.
    """
    values = original.values()
    if 'knn' in values:
        return 'knn'
    return 'retrieval' if values['retrieval'] < SATURATED else 'patch_agreement'
