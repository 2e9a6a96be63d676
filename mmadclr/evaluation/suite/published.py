"""Published results of known backbones, to print beside own results under the same settings.

A result is listed only if its settings are known. Those that are not listed: DINOv3's model card (its code for DAVIS and
SPair-71k is not public), and NeCo's retrieval (its bank size is not stated).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from mmadclr.evaluation.suite.settings import PROTOCOLS, Settings


class Published(NamedTuple):
    """``metric``: end of the metric's name after its base. ``values``: percent, by backbone. ``settings``: what differs from
    the defaults of the protocol. ``source``: where it was published.
    """

    benchmark: str
    protocol: str
    metric: str
    values: Mapping[str, float]
    settings: Mapping[str, Any]
    source: str


HUMMINGBIRD = 'README of vpariza/open-hummingbird-eval, approximate index'
NECO = 'README of vpariza/NeCo'
LEOPART = 'README of MkuuWaUjinga/leopart'
DINO = 'Caron et al. 2021'
LOST = 'README of valeoai/LOST'
TOKENCUT = 'README of YangtaoWANG95/TokenCut'
IBOT = 'README of bytedance/ibot'
CAPI = 'README of facebookresearch/capi, distances in bfloat16'

S16, B16, S8 = 'DINO ViT-S/16', 'DINO ViT-B/16', 'DINO ViT-S/8'
S14, B14 = 'DINOv2 ViT-S/14', 'DINOv2 ViT-B/14'


def _hummingbird(memory: int, *values: float) -> Published:
    named = dict(zip((S16, B16, S14, B14), values, strict=True))
    return Published('voc', 'hummingbird', '_mIoU', named, dict(memory=memory), HUMMINGBIRD)


def _discovery(benchmark: str, lost: tuple[float, ...], tokencut: tuple[float, ...]) -> list[Published]:
    return [
        Published(benchmark, name, '', dict(zip((S16, S8, B16), values, strict=True)), {}, source)
        for name, values, source in (('lost', lost, LOST), ('tokencut', tokencut, TOKENCUT))
    ]


PUBLISHED = (
    _hummingbird(102_400, 37.2, 44.9, 70.2, 69.1),
    _hummingbird(1_024_000, 43.1, 50.8, 74.9, 74.6),
    _hummingbird(10_240_000, 46.6, 55.7, 77.0, 76.9),
    Published('voc', 'overcluster', '_mIoU', {f'NeCo on {S16}': 47.9, 'NeCo on TimeT': 53.1, 'NeCo on Leopart': 55.3,
              f'NeCo on {S14}': 57.7, f'NeCo on {B14}': 71.1}, dict(drop_last=True), NECO),
    Published('voc', 'overcluster', '_mIoU', {'Leopart ViT-S/16': 53.5, 'Leopart ViT-B/8': 59.7}, dict(drop_last=True),
              LEOPART),
    Published('voc', 'linear', '_mIoU_best_on_val', {f'NeCo on {S16}': 65.8, 'NeCo on TimeT': 68.5, 'NeCo on Leopart': 68.3,
              f'NeCo on {S14}': 81.4, f'NeCo on {B14}': 84.5}, dict(drop_last=True), NECO),
    Published('voc', 'linear', '_mIoU_best_on_val', {'Leopart ViT-S/16': 69.3}, dict(drop_last=True), LEOPART),
    Published('ade20k', 'linear-ibot', '_mIoU', {'iBOT ViT-B/16': 38.3}, dict(lr=8e-4), IBOT),
    Published('ade20k_151', 'patch-knn', '_mIoU', {'CAPI ViT-L/14 (Places)': 35.2, 'CAPI ViT-L/14 (LVD)': 32.1,
              'CAPI ViT-L/14 (ImageNet-22k)': 29.7, 'CAPI ViT-L/14 (ImageNet-1k)': 29.2}, {}, CAPI),
    Published('davis', 'davis', '_J&F', {S16: 61.8, B16: 62.3, S8: 69.9, 'DINO ViT-B/8': 71.4}, {}, DINO),
    Published('davis', 'davis', '_J_mean', {S16: 60.2, B16: 60.7, S8: 66.6, 'DINO ViT-B/8': 67.9}, {}, DINO),
    Published('davis', 'davis', '_F_mean', {S16: 63.4, B16: 63.9, S8: 73.1, 'DINO ViT-B/8': 74.9}, {}, DINO),
    *_discovery('voc07', (61.9, 55.5, 60.1), (68.8, 67.3, 68.8)),
    *_discovery('voc12', (64.0, 57.0, 63.3), (72.1, 71.6, 72.4)),
    *_discovery('coco20k', (50.7, 49.5, 50.0), (58.8, 60.7, 59.0)),
)  # fmt: skip


# Validation images, videos or images of the published results, where they are stated: a part of a set is not comparable.
COUNTS = {'voc': 1449, 'ade20k': 2000, 'ade20k_151': 2000, 'davis': 30, 'voc07': 5011, 'voc12': 11_540}


def comparable(benchmark: str, count: int, protocol: str, settings: Settings, patch_size: int) -> list[Published]:
    """Published results on the same images under the same settings.

    The size may be the published one rounded down to the patch size.
    """
    if COUNTS.get(benchmark, count) != count:
        return []
    plain = PROTOCOLS[protocol].settings()
    size = plain.size // patch_size * patch_size
    return [
        each
        for each in PUBLISHED
        if (each.benchmark, each.protocol) == (benchmark, protocol)
        and replace(plain, **{'size': size, **each.settings}) == settings
    ]
