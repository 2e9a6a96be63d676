"""A frozen backbone for images of any size."""

from __future__ import annotations

from torch import Tensor

from mmadclr.models.backbones.dense_vit import pad_to_multiple
from mmadclr.models.backbones.query_vit import QueryViT, ViTOutput


class FeatureViT(QueryViT):
    """``QueryViT`` for feature extraction: in evaluation mode, without gradients, and for images of any size.

    Images are zero-padded at the right and bottom to multiples of the patch size.

    Args:
        *args, **kwargs: See ``QueryViT``.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.requires_grad_(False)
        self.eval()

    def forward(  # type: ignore[override]  # no groups of views, no masks
        self, images: Tensor, query_crops: Tensor | None = None, patches: bool = True
    ) -> ViTOutput:
        """(B, 3, H, W) -> ``cls`` (B, D; None without class token), ``patches`` (B, N, D), N = ceil(H/P) * ceil(W/P)."""
        return super().forward(pad_to_multiple(images, self.patch_size), query_crops, patches)

    def intermediate_tokens(self, images: Tensor, n: int = 1) -> list[Tensor]:
        """See ``QueryViT``; images of any size."""
        return super().intermediate_tokens(pad_to_multiple(images, self.patch_size), n)
