"""Baselines of pretraining: raw pixels, and the headline metrics of a validation."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.runner import Runner as BaseRunner

from mmadclr.evaluation import RawPixels
from mmadclr.models.backbones.query_vit import resolve_arch

RANDOM, PIXELS = 'random.pth', 'pixels.json'


def knn_top1(metrics: Mapping[str, float]) -> float:
    """Top-1 of the k-NN with k = 20, the usual choice; of the first k if that was not measured."""
    twenty = [name for name in metrics if name.startswith('knn20_') and name.endswith('_top1')]
    others = [name for name in metrics if name.startswith('knn')]
    return metrics[(twenty or others or [*metrics])[0]]


def headline(metrics: Mapping[str, float]) -> dict[str, float]:
    """Headline metrics of a validation: k-NN top-1 and, if measured, mIoU of the linear patch probe."""
    found = {'knn': round(knn_top1(metrics), 2)}
    if 'patch_linear_miou' in metrics:
        found['probe_miou'] = round(metrics['patch_linear_miou'], 2)
    return found


def raw_pixels(runner: BaseRunner) -> RawPixels:
    """The normalized pixels of a pretraining run's images as features, per patch for dense probes."""
    return RawPixels(runner.model.data_preprocessor, resolve_arch(runner.cfg.model.backbone.arch)['patch_size'])
