"""Measures of the original, the adapted and a random backbone on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmadclr.datasets import ImageDataset
from mmadclr.datasets.listing import built_alike
from mmadclr.evaluation.adaptation import (
    FolderProbe,
    Measured,
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
    """Measures backbones as ``AdaptationMeasures`` does with the same settings.

    Args:
        settings: Of ``AdaptationMeasures``.
        masks: Arguments of ``FolderProbe``, in place of those of the settings: before and after a run more images are
            measured than in it.
    """

    def __init__(self, settings: Mapping[str, Any], masks: Mapping[str, Any] | None = None) -> None:
        self.dataset: ImageDataset = built_alike(lambda: DATASETS.build(dict(settings['dataset'])))
        self.indices = sample_images(len(self.dataset), settings['images'], settings['seed'])
        self.views, self.loading = Views(settings['seed']), Loading(settings['batch_size'], settings['num_workers'])
        self.probe = None if masks is None else FolderProbe(**masks)
        self.weights, self.reading = settings['original'], settings.get('reading') or {}

    def original(self) -> OpenedBackbone:
        """The backbone before the run."""
        return open_backbone(self.weights, **self.reading)

    def measure(self, opened: OpenedBackbone, name: str) -> Measured:
        """Measures a backbone; collective call."""
        encoder = encoder_of(opened)
        return measure_backbone(encoder, self.dataset, self.loading, self.indices, self.views, self.probe, name=name)

    def measure_all(self, original: Measured | None, adapted: str | Path) -> tuple[Measured, Measured, Measured]:
        """Weights before and after, and random ones; measures the original if it is None. Collective call."""
        opened = self.original()
        before = original or self.measure(opened, 'the original model')
        after = self.measure(open_backbone(adapted, prefix='teacher.backbone'), 'the adapted model')
        return before, after, self.measure(random_twin(opened), 'the random model')


def leading_measure(original: Measured) -> str:
    """The measure by which the best checkpoint is kept: k-NN with labels, or the mIoU of patch k-NN with masks; else
    retrieval, or the agreement of patches where the original already retrieves nearly every image.
    """
    values = original.values()
    if 'knn' in values:
        return 'knn'
    of_masks = next((name for name in values if name.endswith('_miou')), None)
    if of_masks is not None:
        return of_masks
    return 'retrieval' if values['retrieval'] < SATURATED else 'patch_agreement'
