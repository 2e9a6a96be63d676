"""The backbone as a module that can be exported for images of any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mmadclr.models.backbones.resizing import RULES

TAPS = 4  # of cubic interpolation, per axis


class PortableViT(nn.Module):
    """Images (B, 3, H, W) of any size -> ``cls`` (B, D) and ``patches`` (B, N, D), or only patches without class token.

    Equivalent to ``FeatureViT``, but without size-dependent control flow, since exporters record a single trace:
    images are padded by a constant, of which the patch convolution uses what completes the last patches, and
    positions are resized by products with matrices computed from the size. Constants are buffers or derived from the input,
    so that the exported program can be moved to another device.

    Args:
        model: Plain ViT with the weights.
        resize: Rule for resizing positions, one of ``resizing.RULES``; see ``QueryViT``.
    """

    prefix: Tensor
    blocks: nn.Module
    norm: nn.Module

    def __init__(self, model: VisionTransformer, resize: str) -> None:
        super().__init__()
        self.patch_size, self.num_prefix = model.patch_embed.patch_size[0], model.num_prefix_tokens
        self.has_cls = model.cls_token is not None
        self.projection, self.blocks, self.norm = model.patch_embed.proj, model.blocks, model.norm
        num_positioned = 0 if model.no_embed_class else model.num_prefix_tokens
        tokens = [token for token in (model.cls_token, model.reg_token) if token is not None]
        prefix = torch.cat((*tokens, model.pos_embed[:, :0]), dim=1)
        prefix[:, :num_positioned] += model.pos_embed[:, :num_positioned]
        self.register_buffer('prefix', prefix)
        self.positions = ResizedPositions(model.pos_embed[0, num_positioned:], model.patch_embed.grid_size, resize)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        margin = self.patch_size - 1
        grid = self.projection(F.pad(images, (0, margin, 0, margin)))
        tokens = grid.flatten(2).transpose(1, 2) + self.positions(grid)
        tokens = torch.cat((self.prefix.expand(tokens.shape[0], -1, -1), tokens), dim=1)
        tokens = self.norm(self.blocks(tokens))
        patches = tokens[:, self.num_prefix :]
        return (tokens[:, 0], patches) if self.has_cls else patches


class ResizedPositions(nn.Module):
    """Positions (H*W, D) of a stored grid (H, W), resized to a grid of patches (B, D, h, w): (1, h*w, D)."""

    stored: Tensor
    rows: Tensor
    columns: Tensor
    taps: Tensor

    def __init__(self, positions: Tensor, grid_size: tuple[int, int], resize: str) -> None:
        super().__init__()
        self.grid_size, self.resize = grid_size, resize
        self.register_buffer('stored', positions.unflatten(0, grid_size))
        for name, length in zip(('rows', 'columns'), grid_size, strict=True):
            self.register_buffer(name, torch.arange(length, dtype=torch.float32))
        self.register_buffer('taps', torch.arange(TAPS, dtype=torch.float32) - 1)

    def forward(self, grid: Tensor) -> Tensor:
        rows, columns = torch.ones_like(grid[0, 0, :, 0]), torch.ones_like(grid[0, 0, 0])
        is_stored = (rows.sum() == self.grid_size[0]) & (columns.sum() == self.grid_size[1])
        vertical = self.matrix(rows.cumsum(0) - 1, self.rows, is_stored)
        horizontal = self.matrix(columns.cumsum(0) - 1, self.columns, is_stored)
        return torch.einsum('ij,jkd,lk->ild', vertical, self.stored, horizontal).flatten(0, 1)[None]

    def matrix(self, new: Tensor, old: Tensor, is_stored: Tensor) -> Tensor:
        """Weights (new, old) of bicubic interpolation along one axis, given the indices 0, 1, ... of both grids."""
        length = new[-1:] + 1
        offset, antialias = RULES[self.resize]
        step = old.shape[0] / length
        if offset:
            # A step of 1 leaves positions unchanged. Double precision, as torch uses for scale factors.
            moved = (old.shape[0] / (length.double() + offset)).to(length.dtype)
            step = torch.where(is_stored, torch.ones_like(length), moved)
        return antialiased_weights(new, old, step) if antialias else clamped_weights(new, old, step, self.taps)


def clamped_weights(new: Tensor, old: Tensor, step: Tensor, taps: Tensor) -> Tensor:
    """As ``F.interpolate(scale_factor=1 / step, mode='bicubic')``: four taps, clamped at the border."""
    center = (new + 0.5) * step - 0.5  # in torch's order of operations: other rounding changes the result by 1e-5
    indices = center.floor()[:, None] + taps
    weights = cubic_kernel(center[:, None] - indices, -0.75)
    return (weights[:, :, None] * (indices.clamp(0, old.shape[0] - 1)[:, :, None] == old)).sum(1)


def antialiased_weights(new: Tensor, old: Tensor, step: Tensor) -> Tensor:
    """As ``F.interpolate(size=..., mode='bicubic', antialias=True)``: kernel scaled by the step, truncated at the border."""
    center = (new + 0.5) * step - 0.5
    weights = cubic_kernel((center[:, None] - old) / step.clamp(min=1), -0.5)
    return weights / weights.sum(1, keepdim=True)


def cubic_kernel(distance: Tensor, a: float) -> Tensor:
    """Keys' convolution kernel with parameter ``a``, of any shape."""
    x = distance.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
