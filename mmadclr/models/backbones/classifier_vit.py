"""ClassifierViT: a pretrained plain vision transformer as backbone of image classifiers."""

from __future__ import annotations

import torch
from torch import Tensor

from mmadclr.models.backbones.pretrained_vit import PretrainedViT
from mmadclr.registry import MODELS


@MODELS.register_module()
class ClassifierViT(PretrainedViT):
    """Plain vision transformer that returns one feature vector per image, for mmpretrain's ``ImageClassifier``.

    The features are those of facebookresearch/dino, ``eval_linear.py``: [CLS] of the last blocks, each final-normed
    (ViT-S: ``cls_blocks=4``), optionally with the mean of the last block's patches (ViT-B: ``cls_blocks=1,
    mean_patches=True``). If ``frozen_stages`` is the number of blocks, no activations are kept for a backward pass.

    Args:
        cls_blocks: Number of last blocks whose [CLS] is returned, in block order.
        mean_patches: Append the mean of the patches.
        *args, **kwargs: See ``PretrainedViT`` and ``QueryViT``. Image sides must be multiples of the patch size.

    Raises:
        ValueError: Blocks or stages out of range, or an unsupported ``init_cfg``.
    """

    def __init__(self, *args, cls_blocks: int = 1, mean_patches: bool = False, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if not 1 <= cls_blocks <= len(self.blocks):
            raise ValueError(
                f'cls_blocks={cls_blocks} must be between 1 (the last block) and {len(self.blocks)} (all blocks)'
            )
        self.cls_blocks = cls_blocks
        self.mean_patches = mean_patches

    @property
    def feat_dim(self) -> int:
        """Number of feature channels, the ``in_channels`` of a head."""
        return self.embed_dim * (self.cls_blocks + self.mean_patches)

    def forward(self, images: Tensor) -> tuple[Tensor]:  # type: ignore[override]  # as the library of the head calls it
        """(B, 3, H, W) -> features (B, F) in a 1-tuple."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return (self.features(images),)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, F)."""
        x, layout = self.embed(images)
        parts = []
        for number, block in enumerate(self.blocks, start=1 - len(self.blocks)):
            # Patches of the last block are computed only if needed.
            x = self.run_block(block, x, layout.of_block(number - 1), patches=number < 0 or self.mean_patches)
            if number > -self.cls_blocks:
                parts.append(self.norm(x[:, 0]))
        if self.mean_patches:
            parts.append(self.split(self.norm(x), layout).patches.mean(dim=1))
        return torch.cat(parts, dim=1)
