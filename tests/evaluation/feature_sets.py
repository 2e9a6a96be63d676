"""Labeled features for tests of evaluations."""

import numpy as np
import torch

from mmadclr.evaluation.rows import FeatureRows, FeatureSet


def feature_set(count=60, classes=4, dim=6, seed=0, spread=1.0, splits=(), dtype='float32') -> FeatureSet:
    """``count`` features around one center a class, in as many arrays as ``splits`` makes."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    features = centers[labels] + spread * torch.randn(count, dim, generator=generator)
    parts = np.split(features.numpy().astype(dtype), splits)
    names = tuple(f'class{i}' for i in range(classes))
    return FeatureSet(FeatureRows(parts), labels.numpy(), np.arange(count), names)
