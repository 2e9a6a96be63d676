"""Builds a feature pyramid from the equally sized maps of a plain vision transformer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mmadclr.registry import MODELS


@MODELS.register_module()
class ViTPyramid(nn.Module):
    """Four maps of stride P -> maps of strides P/4, P/2, P and 2P, by deconvolution and max-pooling.

    BEiT's adaptor, also used by iBOT and SelfPatch, as a neck before an FPN or UPerHead; same layers and
    names as mmseg's ``Feature2Pyramid``, but also for mmdet.

    Args:
        embed_dim: Channels of the maps, in and out.
        norm_cfg: Norm between the two deconvolutions of the first map. By default statistics are over all processes.
    """

    def __init__(self, embed_dim: int, norm_cfg: dict | None = None) -> None:
        from mmcv.cnn import build_norm_layer  # only frameworks that use mmcv need this neck

        super().__init__()
        self.upsample_4x = nn.Sequential(
            nn.ConvTranspose2d(embed_dim, embed_dim, kernel_size=2, stride=2),
            build_norm_layer(norm_cfg or dict(type='SyncBN'), embed_dim)[1],
            nn.GELU(),
            nn.ConvTranspose2d(embed_dim, embed_dim, kernel_size=2, stride=2),
        )
        self.upsample_2x = nn.Sequential(nn.ConvTranspose2d(embed_dim, embed_dim, kernel_size=2, stride=2))
        self.identity = nn.Identity()
        self.downsample_2x = nn.MaxPool2d(kernel_size=2, stride=2)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Four maps (B, D, h, w) -> (B, D, 4h, 4w), (B, D, 2h, 2w), (B, D, h, w), (B, D, h/2, w/2)."""
        levels = (self.upsample_4x, self.upsample_2x, self.identity, self.downsample_2x)
        return tuple(level(x) for level, x in zip(levels, maps, strict=True))
