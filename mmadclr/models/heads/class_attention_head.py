"""The head of SelfPatch: a class token that reads all patches of an image, or a few neighbors of one patch.

Shape legend: B images, N = h * w patches, E neighbors of a patch, k of them read, S tokens read, D channels, H heads.
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
    """timm's attention of CaiT with one row, the class token; what keys and values there are besides its own is given.

    Written out because fused kernels limit the number of sequences, of which there is one a patch here, of five tokens.
    """

    def forward(self, cls: Tensor, keys: Tensor, values: Tensor, absent: Tensor | None = None) -> Tensor:
        """Class tokens (..., D) read themselves and ``keys``, ``values`` (..., S, D), but not those ``absent`` (..., S)."""
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
    """Pre-norm block that changes class tokens alone. What they read stays, so it is projected once for all of them."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = ClassAttention(dim, num_heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def keys_and_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D) -> twice (B, N, D)."""
        normed = self.norm1(tokens)
        return self.attn.k(normed), self.attn.v(normed)

    def forward(self, cls: Tensor, keys: Tensor, values: Tensor, absent: Tensor | None = None) -> Tensor:
        """Class tokens (..., D) -> (..., D); see ``ClassAttention``."""
        cls = cls + self.attn(self.norm1(cls), keys, values, absent)
        return cls + self.mlp(self.norm2(cls))


@MODELS.register_module()
class ClassAttentionHead(nn.Module):
    """Two blocks of class attention over the patches of a backbone without class token, and a norm.

    alinlab/SelfPatch, ``selfpatch_vision_transformer.py: SelfPatchHead``. There, every neighborhood is a sequence that
    passes the blocks; here each patch is projected once and its keys and values are gathered, with the same result.

    Args:
        in_dim: Channels D of the backbone.
        num_heads: Attention heads.
        depth: Blocks.
        mlp_ratio: Width of their MLPs over D.
        num_neighbors: k, how many of its neighbors stand for a patch in the teacher: the most similar ones.
        wrap: Opposite edges of the grid touch each other, as published. Otherwise patches at an edge have fewer neighbors.
        init: Scheme of the linear layers, ``'dino'`` or ``'xavier'``.

    Raises:
        ValueError: ``num_heads`` does not divide the channels, or ``num_neighbors`` is none of 1 to 8.
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
            raise ValueError(f'ClassAttentionHead: num_neighbors={num_neighbors}: a patch has 1 to 8 neighbors')
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

        The patches are those given (the student's), or with the ``grid`` (h, w) of the N, what class tokens of their own
        read from the most similar neighbors of each (the teacher's).

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

    project = forward  # the method that ``shard_model`` expects of every part beside the backbone

    def from_neighbors(self, patches: Tensor, read: list[tuple[Tensor, Tensor]], grid: tuple[int, int]) -> Tensor:
        """Class tokens (B, N, D), one a patch, that read its neighbors; ``read``: keys and values (B, N, D) by block."""
        chosen, absent = most_similar(patches, neighbors(*grid, self.wrap, patches.device), self.num_neighbors)
        rows = (chosen + patches.shape[1] * torch.arange(len(patches), device=patches.device)[:, None, None]).flatten()
        cls = self.cls_token.expand(patches.shape)
        for block, parts in zip(self.cls_blocks, read, strict=True):
            keys, values = (part.flatten(0, 1)[rows].view(*chosen.shape, -1) for part in parts)
            cls = block(cls, keys, values, absent)
        return cls


@torch.no_grad()
def most_similar(patches: Tensor, around: Neighbors, count: int) -> tuple[Tensor, Tensor | None]:
    """Of its neighbors, the ``count`` (or as many as there are) whose cosine similarity with a patch is highest.

    Patches (B, N, D) -> their numbers (B, N, k), and where there are fewer than k (B, N, k; None if nowhere).
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
