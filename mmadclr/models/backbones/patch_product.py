"""PatchProduct: the patch embedding of a plain vision transformer as one matrix product."""

from __future__ import annotations

import torch.nn.functional as F
from timm.layers import PatchEmbed
from torch import Tensor


class PatchProduct(PatchEmbed):
    """timm's patch embedding as one matrix product: its convolution's stride is the kernel's side P.

    Several times as fast as the convolution on GPUs and, in bf16, on CPUs.
    """

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, H/P, W/P, D)."""
        side = self.patch_size[0]
        pixels = images.unflatten(3, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return F.linear(pixels, self.proj.weight.flatten(1), self.proj.bias)
