"""Vision transformer block in which query tokens attend to the other tokens without influencing them.

Shape legend: B images, N patches, Q query crops, T tokens per crop, D channels, H heads, S = 1 + N + Q*T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.backends import cuda as cuda_backends
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from mmadclr.models.backbones.rope import rotate

QUERY_KEYS = ('image', 'image+self', 'image+queries')


class TokenLayout(NamedTuple):
    """Which tokens of a sequence are queries, and what they may attend to.

    ``num_image`` tokens ([CLS], registers and patches) come first, then query tokens in groups of ``tokens_per_crop``.
    ``rotations``: cosines and sines (L, 2, S, C/2) that rotate attention queries and keys, with rotary
    positions; shared by all blocks, or one per block.
    """

    num_image: int
    tokens_per_crop: int = 1
    query_keys: str = 'image'
    bidirectional: bool = False
    rotations: Tensor | None = None

    def of_block(self, index: int) -> TokenLayout:
        """The layout for one block, if each has its own rotations."""
        if self.rotations is None or len(self.rotations) == 1:
            return self
        return self._replace(rotations=self.rotations[index][None])

    def rotated(self, rows: Tensor) -> Tensor:
        """Queries or keys (B, H, S, C) rotated by their positions; rows without patches have no positions."""
        if self.rotations is None or rows.shape[2] != self.rotations.shape[2]:
            return rows
        return rotate(rows, self.rotations[0])

    def mask(self, num_tokens: int, device: torch.device | str | None = None) -> Tensor:
        """Boolean (S, S) mask, True where the row may attend to the column; reference for testing the fast paths."""
        is_query = torch.arange(num_tokens, device=device) >= self.num_image
        crop = (torch.arange(num_tokens, device=device) - self.num_image) // self.tokens_per_crop
        reads_image = ~is_query.expand(num_tokens, -1)
        if self.bidirectional:
            return torch.ones_like(reads_image)
        if self.query_keys == 'image+queries':
            return reads_image | is_query[:, None]
        if self.query_keys == 'image+self':
            return reads_image | (is_query[:, None] & (crop[:, None] == crop))
        return reads_image

    def without_patches(self, x: Tensor) -> Tensor:
        """Tokens (B, S, D) -> only [CLS] and queries (B, 1 + Q*T, D)."""
        return torch.cat((x[:, :1], x[:, self.num_image :]), dim=1) if x.shape[1] > self.num_image else x[:, :1]


class JointLayout(NamedTuple):
    """Several groups of views, such as two resolutions, with their tokens as rows (R, D) ordered by group and image.

    ``layouts`` and ``shapes`` (B, S) of the groups, and whether ``patches`` of each are needed after the last block.
    """

    layouts: tuple[TokenLayout, ...]
    shapes: tuple[tuple[int, int], ...]
    patches: tuple[bool, ...]

    def of_block(self, index: int) -> JointLayout:
        """The layout for one block; see ``TokenLayout``."""
        return self._replace(layouts=tuple(layout.of_block(index) for layout in self.layouts))

    @staticmethod
    def join(groups: Sequence[Tensor]) -> Tensor:
        """Tokens (B, S, D) of every group -> rows (R, D)."""
        return torch.cat([tokens.flatten(0, 1) for tokens in groups])

    def part(self, rows: Tensor) -> list[Tensor]:
        """Rows (R, D) -> tokens (B, S, D) of every group."""
        parts = rows.split([images * tokens for images, tokens in self.shapes])
        return [part.unflatten(0, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def without_patches(self, rows: Tensor) -> Tensor:
        """Rows (R, D) -> fewer rows: only [CLS] and queries of groups whose patches are not needed."""
        groups = zip(self.part(rows), self.layouts, self.patches, strict=True)
        return self.join([x if wanted else layout.without_patches(x) for x, layout, wanted in groups])

    def of_rest(self) -> JointLayout:
        """The layout after ``without_patches``."""
        groups = zip(self.shapes, self.layouts, self.patches, strict=True)
        shapes = [(b, s if wanted else 1 + s - layout.num_image) for (b, s), layout, wanted in groups]
        return JointLayout(self.layouts, tuple(shapes), self.patches)

    def drop(self, drop_path: nn.Module, rows: Tensor) -> Tensor:
        """Stochastic depth on rows (R, D), one decision per image; drawn for the images of all groups at once."""
        if not isinstance(drop_path, DropPath) or not drop_path.training:
            return rows
        of_image = drop_path.factors(sum(images for images, _ in self.shapes)).split([images for images, _ in self.shapes])
        of_token = [x.expand(*shape, 1) for x, shape in zip(of_image, self.shapes, strict=True)]
        return (rows * self.join(of_token)).to(rows.dtype)


class QueryAttention(Attention):
    """Self-attention in which image tokens never attend to query tokens; all weights are shared.

    With ``query_keys='image'`` every row, image or query, attends to the image tokens only: one rectangular call without a
    mask, so any fused kernel applies. This is ADCLR's mechanism (ICLR 2023); the code released by its authors
    (Sherrylone/PQCL, ``models/pos_transformer.py``) corresponds to ``'image+queries'``.
    """

    qkv: nn.Linear
    num_heads: int
    scale: float

    def forward(self, x: Tensor, layout: TokenLayout, patches: bool = True) -> Tensor:
        """(B, S, D) -> (B, S, D), or without patches (B, 1 + Q*T, D); patches are still attended to."""
        q, k, v = self.project(x) if patches else self.project_rows(layout.without_patches(x), x)
        out = self.attend(q, k, v, layout).transpose(1, 2).flatten(2)
        return self.proj_drop(self.proj(out))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, S, D) -> queries, keys and values, each (B, H, S, D/H)."""
        return self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def forward_jointly(self, x: Tensor, layout: JointLayout, patches: bool = True) -> Tensor:
        """As ``forward`` on rows (R, D) of several groups: joint linear layers, separate attention per group."""
        if patches:
            rest = layout
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        else:
            rest = layout.of_rest()
            q, kv = self.split_linear(layout.without_patches(x), x)
            k, v = kv.chunk(2, dim=-1)
        groups = zip(rest.part(q), layout.part(k), layout.part(v), layout.layouts, strict=True)
        read = [self.attend(self.by_head(q), self.by_head(k), self.by_head(v), one) for q, k, v, one in groups]
        return self.proj_drop(self.proj(layout.join([x.transpose(1, 2).flatten(2) for x in read])))

    def by_head(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, H, S, D/H)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def split_linear(self, rows: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (..., D) of only ``rows``, keys and values (..., 2 D) of all of ``x``."""
        width = x.shape[-1]
        weights, bias = self.qkv.weight.split((width, 2 * width)), self.qkv_bias()
        biases = (None, None) if bias is None else bias.split((width, 2 * width))
        q, kv = (F.linear(tokens, w, b) for tokens, w, b in zip((rows, x), weights, biases, strict=True))
        return q, kv

    def qkv_bias(self) -> Tensor | None:
        """Bias of queries, keys and values (3 D), if any."""
        return self.qkv.bias

    def project_rows(self, rows: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of only ``rows`` (B, R, D), keys and values of all of ``x`` (B, S, D)."""
        q, kv = self.split_linear(rows, x)
        k, v = kv.unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q.unflatten(2, (self.num_heads, -1)).transpose(1, 2), k, v

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, layout: TokenLayout) -> Tensor:
        """Attention of [CLS], optionally patches, and queries to all tokens; inputs (B, H, rows, D/H) each."""
        n = layout.num_image
        q, k = layout.rotated(q), layout.rotated(k)
        if n == k.shape[2] or layout.bidirectional:
            return F.scaled_dot_product_attention(q, k, v)
        if layout.query_keys == 'image':
            return F.scaled_dot_product_attention(q, k[:, :, :n], v[:, :, :n])
        # The two ablations: image rows as in a plain ViT, query rows separately.
        num_queries = k.shape[2] - n
        image_rows, query_rows = q.split((q.shape[2] - num_queries, num_queries), dim=2)
        image = F.scaled_dot_product_attention(image_rows, k[:, :, :n], v[:, :, :n])
        if layout.query_keys == 'image+queries':
            return torch.cat((image, F.scaled_dot_product_attention(query_rows, k, v)), dim=2)
        return torch.cat((image, attend_image_and_self(query_rows, k, v, layout)), dim=2)

    def weights(self, x: Tensor, layout: TokenLayout) -> Tensor:
        """Softmax map (B, H, S, S) of the same attention, for figures and tests; slow, not used in training."""
        q, k = map(layout.rotated, self.project(x)[:2])
        scores = (q * self.scale) @ k.transpose(-2, -1)
        return scores.masked_fill(~layout.mask(x.shape[1], x.device), float('-inf')).softmax(dim=-1)


class LinearWithoutKeyBias(nn.Linear):
    """Linear layer of queries, keys and values (D -> 3 D) in which the middle third of the bias is treated as zero.

    It is stored nevertheless, with zero gradient (facebookresearch/dinov3, ``layers/attention.py:
    LinearKMaskedBias``). Without rotations a key bias does not influence attention; with them it would.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.effective_bias())

    def effective_bias(self) -> Tensor:
        """The bias (3 D) that is added."""
        q, k, v = self.bias.chunk(3)
        return torch.cat((q, torch.zeros_like(k), v))


class UnbiasedKeyAttention(QueryAttention):
    """``QueryAttention`` with biases of queries and values only."""

    qkv: LinearWithoutKeyBias

    def __init__(self, dim: int, *args, **kwargs) -> None:
        super().__init__(dim, *args, **kwargs)
        self.qkv = LinearWithoutKeyBias(dim, self.qkv.out_features)

    def qkv_bias(self) -> Tensor:
        return self.qkv.effective_bias()


def attend_image_and_self(q: Tensor, k: Tensor, v: Tensor, layout: TokenLayout) -> Tensor:
    """Attention of query rows (B, H, Q*T, C) to image tokens and those of their own crop; keys and values are of all tokens.

    One softmax over both sets of scores, without a mask or discarded scores.
    """
    n, crops = layout.num_image, (-1, layout.tokens_per_crop)
    q = q * q.shape[-1] ** -0.5
    to_image = q @ k[:, :, :n].transpose(-2, -1)
    own_k, own_v = (x[:, :, n:].unflatten(2, crops) for x in (k, v))
    to_self = (q.unflatten(2, crops) @ own_k.transpose(-2, -1)).flatten(2, 3)
    weights = torch.cat((to_image, to_self), dim=-1).softmax(dim=-1).to(v.dtype)
    on_image, on_self = weights.split((n, layout.tokens_per_crop), dim=-1)
    return on_image @ v[:, :, :n] + (on_self.unflatten(2, crops) @ own_v).flatten(2, 3)


class DropPath(nn.Module):
    """Per-sample stochastic depth as in timm; the rate is a tensor, so that compiled blocks share a graph."""

    keep: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.register_buffer('keep', torch.tensor(1 - rate), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        if not self.training:
            return x
        return (x * self.factors(len(x))).to(x.dtype)  # 1 / 0.9 in bf16 would be 1.109375

    def factors(self, number: int) -> Tensor:
        """(number, 1, 1): 0 for dropped samples, otherwise 1 / keep probability."""
        return torch.bernoulli(self.keep.expand(number, 1, 1)) / self.keep


def has_fused_attention(head_dim: int, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch has an attention kernel for a GPU that does not materialize all scores; True on other devices."""
    if device.type != 'cuda':
        return True
    q = torch.empty(1, 1, 8, head_dim, device=device, dtype=dtype)
    call = cuda_backends.SDPAParams(q, q, q, None, 0.0, False, False)
    return any(
        usable(call)
        for usable in (
            cuda_backends.can_use_flash_attention,
            cuda_backends.can_use_efficient_attention,
            cuda_backends.can_use_cudnn_attention,
        )
    )


def slow_attention(backbone: VisionTransformer, dtype: torch.dtype | None) -> str | None:
    """Why attention of a backbone takes torch's slow path on its GPU, in words; ``dtype`` None: that of the weights."""
    weight, num_heads = backbone.patch_embed.proj.weight, backbone.blocks[0].attn.num_heads
    dtype = dtype or weight.dtype
    if has_fused_attention(backbone.embed_dim // num_heads, weight.device, dtype):
        return None
    return (
        f'attention: torch has no fused kernel for {dtype} with {backbone.embed_dim} channels in {num_heads} heads on this '
        'GPU, so the full attention matrix is computed, which is slow and uses more memory'
    )


class QueryBlock(Block):
    """timm's pre-norm block, which passes the token layout to its attention."""

    def __init__(self, *args, drop_path: float = 0.0, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if drop_path > 0:
            self.drop_path1, self.drop_path2 = DropPath(drop_path), DropPath(drop_path)

    def forward(self, x: Tensor, layout: TokenLayout | JointLayout, patches: bool = True) -> Tensor:
        """(B, S, D) -> (B, S, D), or only [CLS] and queries (B, 1 + Q*T, D) without patches; rows (R, D) likewise."""
        if isinstance(layout, JointLayout):
            return self.forward_jointly(x, layout, patches)
        read = self.attn(self.norm1(x), layout, patches)
        x = (x if patches else layout.without_patches(x)) + self.drop_path1(self.ls1(read))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))

    def forward_jointly(self, x: Tensor, layout: JointLayout, patches: bool) -> Tensor:
        """As ``forward`` on rows (R, D) of several groups of views."""
        read = self.attn.forward_jointly(self.norm1(x), layout, patches)
        if not patches:
            x, layout = layout.without_patches(x), layout.of_rest()
        x = x + layout.drop(self.drop_path1, self.ls1(read))
        return x + layout.drop(self.drop_path2, self.ls2(self.mlp(self.norm2(x))))


def keep_products() -> tuple:
    """Contexts for ``checkpoint`` that keep matrix products and attention, and recompute the cheap rest."""
    return create_selective_checkpoint_contexts(_save_products)


def _save_products(context, operation, *args, **kwargs) -> CheckpointPolicy:
    name = operation.__name__.split('.')[0]
    expensive = name in ('mm', 'addmm', 'bmm') or name.startswith('_scaled_dot_product')
    return CheckpointPolicy.MUST_SAVE if expensive else CheckpointPolicy.PREFER_RECOMPUTE
