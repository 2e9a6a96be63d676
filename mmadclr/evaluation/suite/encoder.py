"""Frozen backbones as the dense suite calls them.

Shape legend: B images, P patches, D channels, H heads.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import torch
from torch import Tensor

from mmadclr.evaluation.frozen import Encoder
from mmadclr.hub.opening import OpenedBackbone
from mmadclr.models.backbones.dense_features import block_maps, dense_features
from mmadclr.precision import autocast_to


class DenseEncoder(Protocol):
    """``width``: D. ``heads``: of the attention, 0 if it is not available. ``device``: of the features."""

    patch_size: int
    width: int
    heads: int
    device: torch.device

    def __call__(self, images: Tensor, kinds: Collection[str]) -> dict[str, Tensor]:
        """Features (B, P, D) or (B, H, P), float32, of normalized images (B, 3, H, W), by kind; see ``dense_features``."""


class BackboneEncoder:
    """A backbone opened from a checkpoint, on a device.

    ``images``: number of images that were encoded.
    """

    def __init__(self, opened: OpenedBackbone, device: str | torch.device, precision: str = 'fp32') -> None:
        self.backbone, self.device, self.precision = opened.model.to(device), torch.device(device), precision
        self.patch_size, self.width = opened.model.patch_size, opened.model.embed_dim
        self.heads = 0 if opened.model.cls_token is None else opened.model.blocks[-1].attn.num_heads
        self.images = 0

    @torch.no_grad()
    def __call__(self, images: Tensor, kinds: Collection[str]) -> dict[str, Tensor]:
        self.images += len(images)
        with autocast_to(self.precision, self.device.type):
            found = dense_features(self.backbone, images.to(self.device), kinds)
        return {kind: rows.float() for kind, rows in found.items()}

    @torch.no_grad()
    def maps(self, images: Tensor, blocks: Sequence[int], final_norm: bool) -> Tensor:
        """(B, K D, h, w), float32, of normalized images of any size; see ``block_maps``."""
        self.images += len(images)
        with autocast_to(self.precision, self.device.type):
            return block_maps(self.backbone, images.to(self.device), blocks, final_norm).float()


class ModelEncoder:
    """The teacher of a model in training, which normalizes pixel values itself; only patches after the final norm."""

    heads = 0

    def __init__(self, model: Encoder, patch_size: int, width: int, device: torch.device) -> None:
        self.model, self.patch_size, self.width, self.device = model, patch_size, width, device

    @torch.no_grad()
    def __call__(self, images: Tensor, kinds: Collection[str]) -> dict[str, Tensor]:
        if set(kinds) != {'patch'}:
            raise ValueError(f'a model in training has only patch features, not {", ".join(sorted(kinds))}')
        data = self.model.data_preprocessor({'images': images.to(self.device)}, False)
        return {'patch': self.model(**data, mode='patches').float()}
