"""Everything that the data allow to measure of one backbone, and how far it has drifted from another.

Shape legend: N images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from mmengine.device import get_device
from torch import nn

from mmadclr.datasets.image_dataset import ImageDataset
from mmadclr.evaluation.adaptation.drift import linear_cka, row_cosines
from mmadclr.evaluation.adaptation.masks import image_counts
from mmadclr.evaluation.adaptation.outputs import Outputs, image_outputs
from mmadclr.evaluation.adaptation.scores import Score, dense_scores, scores_of
from mmadclr.evaluation.adaptation.views import VIEWS, Views
from mmadclr.evaluation.collapse import evenly
from mmadclr.evaluation.dense_probe import DenseProbe
from mmadclr.evaluation.extraction import Loading
from mmadclr.evaluation.extractor import FeatureExtractor, default_features
from mmadclr.evaluation.frozen import frozen
from mmadclr.hub.opening import OpenedBackbone
from mmadclr.models.backbones.feature_vit import FeatureViT

CKA_ROWS = 20_000


class Measured(NamedTuple):
    """One model. ``outputs``: its features. ``scores``: its measures by name."""

    outputs: Outputs
    scores: dict[str, Score]

    def values(self) -> dict[str, float]:
        """The measures as numbers."""
        return {name: score.value for name, score in self.scores.items()}


def measure_backbone(
    model: nn.Module,
    dataset: ImageDataset,
    loading: Loading = Loading(64),  # noqa: B008  # immutable
    indices: np.ndarray | None = None,
    views: Views = VIEWS,
    probe: DenseProbe | None = None,
    k: int = 20,
    name: str = 'the model',
) -> Measured:
    """The label-free measures; k-NN if the data set has labels; mIoU if there is a probe. Collective call.

    Images are read once, and their features kept on the CPU: 18 vectors for each of at most ``MOST_IMAGES`` images. Models
    that are compared must be measured with the same arguments.

    Args:
        model: An encoder such as :func:`encoder_of` or a pretraining method, on its device.
        dataset, loading, indices, views, name: See :func:`mmadclr.evaluation.adaptation.outputs.image_outputs`.
        probe: Reads its own images with masks.
        k: Neighbors of the leave-one-out k-NN.

    Raises:
        ValueError, FeatureError, UnreadableImageError: See ``image_outputs``.
    """
    with frozen(model) as encoder:
        outputs = image_outputs(encoder, dataset, loading, indices, views, name)
        scores = scores_of(outputs, k)
        if probe is not None:
            scores |= dense_scores(image_counts(probe, encoder))
    return Measured(outputs, scores)


def encoder_of(opened: OpenedBackbone, precision: str = 'fp32') -> FeatureExtractor:
    """A backbone on the device, with [CLS] as image feature (without one, the mean of the patches)."""
    return FeatureExtractor(opened, default_features(opened.model, 'knn'), precision).to(get_device())


def random_twin(opened: OpenedBackbone, seed: int = 0) -> OpenedBackbone:
    """A backbone of the same architecture and preprocessing with random weights, the floor of every measure."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FeatureViT(**opened.settings)
        model.init_weights()
    return opened._replace(model=model)


def drift_of(original: Outputs, adapted: Outputs) -> dict[str, float]:
    """How far the features of the same images have moved: linear CKA, debiased, and mean cosine, of images and patches.

    1: not at all. CKA is of at most ``CKA_ROWS`` evenly spaced rows. Cosines only if both models have the same number of
    channels.

    Raises:
        ValueError: The models were not measured on the same images.
    """
    check_same_images(original, adapted)
    found = {}
    for name in ('whole', 'patches'):
        first, second = (getattr(outputs, name).flatten(0, -2) for outputs in (original, adapted))
        key = {'whole': 'cls', 'patches': 'patch'}[name]
        found[f'drift_{key}_cka'] = linear_cka(evenly(first, CKA_ROWS), evenly(second, CKA_ROWS))
        if first.shape == second.shape:
            found[f'drift_{key}_cosine'] = row_cosines(first, second).mean().item()
    return found


def check_same_images(first: Outputs, second: Outputs) -> None:
    """Raises ValueError if two models were not measured on the same images and patches."""
    if not np.array_equal(first.indices, second.indices) or first.patches.shape[:2] != second.patches.shape[:2]:
        raise ValueError(
            f'the models were measured on different images ({len(first.indices)} and {len(second.indices)}) or patches: '
            'measure them again with the same data set, indices and views'
        )
