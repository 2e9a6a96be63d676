"""Which part of a detector computes in low precision: its features alone."""

from __future__ import annotations

import sys
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from mmadclr.models.losses.chunked_cross_entropy import at_least_fp32


def mmdet_detectors(model: nn.Module) -> list[nn.Module]:
    """Those modules of a model, itself among them, that are mmdet's detectors; mmdet is not imported for it."""
    # Nobody can hold a detector without having imported its base class.
    base = getattr(sys.modules.get('mmdet.models.detectors.base'), 'BaseDetector', None)
    return [] if base is None else [module for module in model.modules() if isinstance(module, base)]


@contextmanager
def autocast_features(detector: nn.Module, device: str, dtype: torch.dtype):
    """Meanwhile ``detector.extract_feat`` runs under autocast and returns fp32 maps; the rest is left as it is.

    mmdet makes anchors and proposals in the dtype of a head's outputs, and casts RoIs to that of the maps. In bf16,
    coordinates beyond 512 would be multiples of 4, beyond 1024 of 8, and in training only. Besides, mmcv's compiled
    RoIAlign knows no bf16.
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
