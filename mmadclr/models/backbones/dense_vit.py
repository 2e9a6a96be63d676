"""DenseViT: a pretrained plain vision transformer as backbone of detectors and segmentors."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from mmadclr.models.backbones.pretrained_vit import PretrainedViT
from mmadclr.models.backbones.query_block import TokenLayout
from mmadclr.registry import MODELS


@MODELS.register_module()
class DenseViT(PretrainedViT):
    """Plain vision transformer that returns the feature maps of several blocks, for mmdet, mmseg and mmpretrain.

    Weights and names are those of pretraining. Images of any size are padded at the right and bottom to multiples of
    the patch size. Position embeddings are resized as in iBOT's and SelfPatch's published detection and segmentation code.

    Args:
        out_indices: Blocks, from 0, whose outputs are returned, in ascending order; may repeat.
        out_norm: Apply the final norm to every output (iBOT's ``out_with_norm``); otherwise there is no final norm.
        *args, **kwargs: See ``PretrainedViT`` and ``QueryViT``.

    Raises:
        ValueError: Blocks or stages out of range, or an unsupported ``init_cfg``.
    """

    def __init__(self, *args, out_indices: Sequence[int] = (3, 5, 7, 11), out_norm: bool = False, **kwargs) -> None:
        super().__init__(*args, final_norm=out_norm, **kwargs)
        _check_blocks(out_indices, len(self.blocks))
        self.out_indices = tuple(out_indices)
        self.blocks[self.out_indices[-1] + 1 :].requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]  # as the library of the head calls it
        """(B, 3, H, W) -> one map (B, D, ceil(H/P), ceil(W/P)) for each of ``out_indices``."""
        images = pad_to_multiple(images, self.patch_size)
        height, width = (side // self.patch_size for side in images.shape[-2:])
        x, layout = self.embed(images)
        taps = {}
        for index, block in enumerate(self.blocks[: self.out_indices[-1] + 1]):
            x = self.run_block(block, x, layout.of_block(index))
            if index in self.out_indices:
                taps[index] = self.to_map(x, layout, height, width)
        return tuple(taps[index] for index in self.out_indices)

    def to_map(self, tokens: Tensor, layout: TokenLayout, height: int, width: int) -> Tensor:
        """Tokens (B, S, D) -> patches as a map (B, D, height, width), normalized if configured."""
        patches = self.split(self.norm(tokens), layout).patches
        return patches.transpose(1, 2).unflatten(2, (height, width)).contiguous()


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Pads (B, 3, H, W) with zeros at the right and bottom until both sides are multiples."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple))


def _check_blocks(out_indices: Sequence[int], depth: int) -> None:
    indices = [out_indices] if isinstance(out_indices, int) else list(out_indices)
    if (
        isinstance(out_indices, int)
        or not indices
        or indices != sorted(indices)
        or not 0 <= indices[0] <= indices[-1] < depth
    ):
        raise ValueError(f'out_indices={tuple(indices)} must be blocks from 0 to {depth - 1} in ascending order')
