"""Image features from a frozen backbone.

Shape legend: B images, N patches, D channels of the backbone.
"""

from __future__ import annotations

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmadclr.hub.opening import OpenedBackbone
from mmadclr.models.backbones.feature_vit import FeatureViT
from mmadclr.models.preprocessors import ViewPreprocessor
from mmadclr.precision import PRECISIONS, autocast_to

FEATURES = ('cls', 'cls4', 'cls+mean', 'mean')
LAST_BLOCKS = 4
WIDE = 768  # channels of a ViT-B, from which on DINO uses only the last block


def default_features(backbone: FeatureViT, task: str) -> str:
    """The features that DINO evaluates: [CLS] for k-NN; by width for a linear classifier. Without class token, the mean.

    facebookresearch/dino, ``eval_linear.py``: ``n_last_blocks=4`` for ViT-S, ``n_last_blocks=1, avgpool_patchtokens=True``
    for ViT-B.

    Args:
        backbone: Of any architecture.
        task: ``'knn'`` or ``'linear'``.
    """
    if backbone.cls_token is None:
        print_log('the backbone has no class token: using the mean of the patches as image feature', 'current')
        return 'mean'
    if task == 'knn':
        return 'cls'
    return 'cls+mean' if backbone.embed_dim >= WIDE else 'cls4'


class FeatureExtractor(nn.Module):
    """A frozen backbone that maps each image to one feature vector; usable by ``feature_batches`` and ``DenseProbe``.

    Args:
        opened: Backbone and normalization.
        features: All final-normed. ``'cls'``: [CLS] (D). ``'cls4'``: [CLS] after each of the last four blocks (4 D; of all
            blocks if there are fewer). ``'mean'``: mean of the patches (D). ``'cls+mean'``: [CLS] and that mean (2 D).
        precision: ``'fp32'``, or ``'bf16'`` for autocast. Features are always float32.

    Raises:
        ValueError: Unknown features or precision, or [CLS] of a backbone without one.
    """

    def __init__(self, opened: OpenedBackbone, features: str = 'cls', precision: str = 'fp32') -> None:
        super().__init__()
        if features not in FEATURES:
            raise ValueError(f'features={features!r}: choose one of {", ".join(FEATURES)}')
        if precision not in PRECISIONS:
            raise ValueError(f'precision={precision!r}: choose one of {", ".join(PRECISIONS)}')
        if 'cls' in features and opened.model.cls_token is None:
            raise ValueError(f"features={features!r}: the backbone has no class token; choose 'mean'")
        self.backbone, self.features, self.precision = opened.model, features, precision
        depth = len(opened.model.blocks)
        if features == 'cls4' and depth < LAST_BLOCKS:
            print_log(f'features cls4: the backbone has only {depth} blocks; using [CLS] after each of them', 'current')
        mean, std = (tuple(255 * value for value in values) for values in (opened.mean, opened.std))
        self.data_preprocessor = ViewPreprocessor(mean, std)
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor, mode: str = 'tensor') -> Tensor:
        """Normalized images (B, 3, H, W) -> features (B, D'), or with ``mode='patches'`` patch features (B, N, D)."""
        with autocast_to(self.precision, images.device.type):
            return self._encode(images, mode).float()

    def _encode(self, images: Tensor, mode: str) -> Tensor:
        if mode == 'patches':
            return self.backbone(images).patches
        if self.features == 'cls4':
            return torch.cat([tokens[:, 0] for tokens in self.backbone.intermediate_tokens(images, LAST_BLOCKS)], dim=1)
        if self.features == 'cls':
            return self.backbone(images, patches=False).cls
        output = self.backbone(images)
        mean = output.patches.mean(dim=1)
        return mean if self.features == 'mean' else torch.cat((output.cls, mean), dim=1)
