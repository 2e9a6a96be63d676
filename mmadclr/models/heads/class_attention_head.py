"""SelfPatch's head: a class token that attends to all patches of an image, or to a few neighbors of one patch.

Shape legend: B images, N = h * w patches, E neighbors of a patch, k selected ones, S tokens attended to, D channels, H
heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from timm.models.cait import ClassAttn
from torch import Tensor, nn

from mmadclr.models.containers import ModuleList
from mmadclr.models.heads.neighbors import Neighbors, neighbors
from mmadclr.models.init import init_linear_layers
from mmadclr.models.losses.chunked_cross_entropy import at_least_fp32
from mmadclr.registry import MODELS


class ClassAttention(ClassAttn):
    """timm's CaiT class attention with a single row; keys and values of other tokens are passed in.

    Does not use fused kernels, which limit the number of sequences: here there is one per patch, of five tokens.
    """

    def forward(self, cls: Tensor, keys: Tensor, values: Tensor, absent: Tensor | None = None) -> Tensor:
        """Class tokens (..., D) attend to themselves and ``keys``, ``values`` (..., S, D) unless ``absent`` (..., S)."""
        own = cls.unsqueeze(-2)
        keys, values = torch.cat((self.k(own), keys), dim=-2), torch.cat((self.v(own), values), dim=-2)
        q, k, v = (self.by_head(x) for x in (self.q(own), keys, values))
        scores = (q * self.scale) @ k.transpose(-2, -1)  # (..., H, 1, 1 + S)
        if absent is not None:
            scores = scores.masked_fill(F.pad(absent, (1, 0))[..., None, None, :], float('-inf'))
        read = scores.softmax(dim=-1).to(v.dtype) @ v
        return self.proj(read.flatten(-3))

    def by_head(self, x: Tensor) -> Tensor:
        """(..., S, D) -> (..., H, S, D/H)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)


class ClassAttentionBlock(nn.Module):
    """Pre-norm block that updates only class tokens. The other tokens are constant, so they are projected once for all."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = ClassAttention(dim, num_heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def keys_and_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D) -> keys (B, N, D) and values (B, N, D)."""
        normed = self.norm1(tokens)
        return self.attn.k(normed), self.attn.v(normed)

    def forward(self, cls: Tensor, keys: Tensor, values: Tensor, absent: Tensor | None = None) -> Tensor:
        """Class tokens (..., D) -> (..., D); see ``ClassAttention``."""
        cls = cls + self.attn(self.norm1(cls), keys, values, absent)
        return cls + self.mlp(self.norm2(cls))


@MODELS.register_module()
class ClassAttentionHead(nn.Module):
    """Two blocks of class attention over the patches of a backbone without class token, and a norm.

    alinlab/SelfPatch, ``selfpatch_vision_transformer.py: SelfPatchHead``. There, every neighborhood is a separate sequence;
    here each patch is projected once and its keys and values are gathered, with the same result.

    Args:
        in_dim: Channels D of the backbone.
        num_heads: Attention heads.
        depth: Number of blocks.
        mlp_ratio: Width of their MLPs relative to D.
        num_neighbors: k, number of most similar neighbors that represent a patch in the teacher.
        wrap: Opposite edges of the grid are adjacent, as published. Otherwise patches at an edge have fewer neighbors.
        init: Scheme of the linear layers, ``'dino'`` or ``'xavier'``.

    Raises:
        ValueError: ``num_heads`` does not divide the channels, or ``num_neighbors`` is not 1 to 8.
    """

    def __init__(
        self,
        in_dim: int,
        num_heads: int,
        depth: int = 2,
        mlp_ratio: float = 4.0,
        num_neighbors: int = 4,
        wrap: bool = True,
        init: str = 'dino',
    ) -> None:
        super().__init__()
        if in_dim % num_heads:
            raise ValueError(
                f'ClassAttentionHead: num_heads={num_heads} does not divide the {in_dim} channels of the backbone'
            )
        if not 1 <= num_neighbors <= 8:
            raise ValueError(f'ClassAttentionHead: num_neighbors={num_neighbors} must be 1 to 8')
        self.num_neighbors, self.wrap, self.init = num_neighbors, wrap, init
        self.cls_token = nn.Parameter(torch.empty(1, 1, in_dim))
        self.cls_blocks = ModuleList(ClassAttentionBlock(in_dim, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(in_dim, eps=1e-6)
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        init_linear_layers(self.cls_blocks, self.init)

    def forward(self, patches: Tensor, grid: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Patches (B, N, D) -> [CLS] (B, D) and patches (B, N, D), final-normed.

        The patches are those given (for the student) or, with the ``grid`` (h, w) of the N patches, class tokens that
        attended to the most similar neighbors of each patch (for the teacher).

        Raises:
            ValueError: A grid of one patch.
        """
        read = [block.keys_and_values(patches) for block in self.cls_blocks]
        cls = self.cls_token[:, 0].expand(len(patches), -1)
        for block, (keys, values) in zip(self.cls_blocks, read, strict=True):
            cls = block(cls, keys, values)
        if grid is not None:
            patches = self.from_neighbors(patches, read, grid)
        return self.norm(cls), self.norm(patches)

    project = forward  # method that ``shard_model`` requires of every part except the backbone

    def from_neighbors(self, patches: Tensor, read: list[tuple[Tensor, Tensor]], grid: tuple[int, int]) -> Tensor:
        """One class token per patch (B, N, D) attending to its neighbors; ``read``: keys, values (B, N, D) by block."""
        chosen, absent = most_similar(patches, neighbors(*grid, self.wrap, patches.device), self.num_neighbors)
        rows = (chosen + patches.shape[1] * torch.arange(len(patches), device=patches.device)[:, None, None]).flatten()
        cls = self.cls_token.expand(patches.shape)
        for block, parts in zip(self.cls_blocks, read, strict=True):
            keys, values = (part.flatten(0, 1)[rows].view(*chosen.shape, -1) for part in parts)
            cls = block(cls, keys, values, absent)
        return cls


@torch.no_grad()
def most_similar(patches: Tensor, around: Neighbors, count: int) -> tuple[Tensor, Tensor | None]:
    """The ``count`` neighbors (or all, if fewer) with the highest cosine similarity to a patch.

    Patches (B, N, D) -> their indices (B, N, k), and which are missing (B, N, k; None if none).
    """
    with torch.autocast(patches.device.type, enabled=False):
        directions = F.normalize(at_least_fp32(patches), dim=-1)
        similarities = directions @ directions.transpose(1, 2)
    index = around.numbers.expand(len(patches), -1, -1)
    similarities = similarities.gather(2, index)
    if around.absent is not None:
        similarities = similarities.masked_fill(around.absent, float('-inf'))
    values, places = similarities.topk(min(count, index.shape[2]), dim=-1)
    return index.gather(2, places), None if around.absent is None else values == float('-inf')
