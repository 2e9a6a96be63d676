"""Restricts autocast to the feature extraction of detectors."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from mmadclr.models.losses.chunked_cross_entropy import at_least_fp32


def mmdet_detectors(model: nn.Module) -> list[nn.Module]:
    """All mmdet detectors among the modules of a model, including itself; does not import mmdet."""
    # A detector can only exist if its base class has been imported.
    base = getattr(sys.modules.get('mmdet.models.detectors.base'), 'BaseDetector', None)
    return [] if base is None else [module for module in model.modules() if isinstance(module, base)]


@contextmanager
def autocast_features(detector: Any, device: str, dtype: torch.dtype):
    """Context in which ``detector.extract_feat`` runs under autocast and returns fp32 maps; other methods are unchanged.

    mmdet computes anchors and proposals in the dtype of the head's outputs, and casts RoIs to that of the maps. In bf16,
    coordinates above 512 would be rounded to multiples of 4, above 1024 to multiples of 8, and only in training. In
    addition, mmcv's compiled RoIAlign does not support bf16.
    """
    before = vars(detector).get('extract_feat')
    extract_feat = detector.extract_feat

    def extract_in_low_precision(*args, **kwargs):
        with torch.autocast(device, dtype):
            maps = extract_feat(*args, **kwargs)
        return tree_map_only(Tensor, at_least_fp32, maps)

    detector.extract_feat = extract_in_low_precision
    try:
        yield
    finally:
        if before is None:
            del detector.extract_feat
        else:
            detector.extract_feat = before
