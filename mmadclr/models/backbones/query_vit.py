"""QueryViT: a plain vision transformer that can carry extra query tokens.

Shape legend: B images, N patches, Q query crops, T tokens per crop, D channels, H heads, S = 1 + N + Q*T tokens.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import NamedTuple

import timm
import torch
import torch.nn.functional as F
from timm.layers import Attention, resample_abs_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from mmadclr.models.init import init_linear_layers
from mmadclr.registry import MODELS

QUERY_KEYS = ('image', 'image+self', 'image+queries')
SIZES = ('patch_size', 'embed_dim', 'depth', 'num_heads', 'mlp_ratio')


class ViTOutput(NamedTuple):
    """Final-normed tokens: ``cls`` (B, D; None without class token), ``patches`` (B, N, D), ``queries`` (B, Q, T, D)."""

    cls: Tensor | None
    patches: Tensor
    queries: Tensor


class TokenLayout(NamedTuple):
    """Which tokens of a sequence are queries, and what they may read.

    ``num_image`` tokens ([CLS] and patches) come first, then query tokens in groups of ``tokens_per_crop``.
    """

    num_image: int
    tokens_per_crop: int = 1
    query_keys: str = 'image'
    bidirectional: bool = False

    def mask(self, num_tokens: int, device: torch.device | str | None = None) -> Tensor:
        """Boolean (S, S) mask, True where row may attend to column: the definition the fast paths are tested against."""
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


class QueryAttention(Attention):
    """Self-attention in which image tokens never read query tokens; all weights are shared.

    With ``query_keys='image'`` every row, image or query, reads the image tokens only: one rectangular call without a
    mask, so any fused kernel applies. The mechanism is that of ADCLR (ICLR 2023); the released code of its authors
    (Sherrylone/PQCL, ``models/pos_transformer.py``) corresponds to ``'image+queries'``.
    """

    def forward(self, x: Tensor, layout: TokenLayout) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        q, k, v = self.project(x)
        out = self.attend(q, k, v, layout).transpose(1, 2).flatten(2)
        return self.proj_drop(self.proj(out))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, S, D) -> queries, keys and values, each (B, H, S, D/H)."""
        return self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, layout: TokenLayout) -> Tensor:
        n = layout.num_image
        if n == q.shape[2] or layout.bidirectional:
            return F.scaled_dot_product_attention(q, k, v)
        if layout.query_keys == 'image':
            return F.scaled_dot_product_attention(q, k[:, :, :n], v[:, :, :n])
        # The two ablations: image rows as in a plain ViT, query rows by themselves.
        image = F.scaled_dot_product_attention(q[:, :, :n], k[:, :, :n], v[:, :, :n])
        if layout.query_keys == 'image+queries':
            return torch.cat((image, F.scaled_dot_product_attention(q[:, :, n:], k, v)), dim=2)
        return torch.cat((image, attend_image_and_self(q[:, :, n:], k, v, layout)), dim=2)

    def weights(self, x: Tensor, layout: TokenLayout) -> Tensor:
        """Softmax map (B, H, S, S) of the same attention, for pictures and tests; slow path, never used in training."""
        q, k, _ = self.project(x)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        return scores.masked_fill(~layout.mask(x.shape[1], x.device), float('-inf')).softmax(dim=-1)


def attend_image_and_self(q: Tensor, k: Tensor, v: Tensor, layout: TokenLayout) -> Tensor:
    """Query rows (B, H, Q*T, C) over the image's tokens and those of their own crop; keys and values are of all tokens.

    One softmax over both kinds of scores, so neither a mask nor a score that is thrown away.
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
    """Stochastic depth, decided for each sample, as timm's; its rate is a tensor, so that compiled blocks share a graph."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.register_buffer('keep', torch.tensor(1 - rate), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        if not self.training:
            return x
        kept = torch.bernoulli(self.keep.expand(len(x), 1, 1))
        return x * (kept / self.keep).to(x.dtype)


class QueryBlock(Block):
    """timm's pre-norm block, with the token layout handed to its attention."""

    def __init__(self, *args, drop_path: float = 0.0, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if drop_path > 0:
            self.drop_path1, self.drop_path2 = DropPath(drop_path), DropPath(drop_path)

    def forward(self, x: Tensor, layout: TokenLayout) -> Tensor:
        x = x + self.drop_path1(self.attn(self.norm1(x), layout))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


@MODELS.register_module()
class QueryViT(VisionTransformer):
    """Plain vision transformer whose tokens can be read, but not influenced, by query tokens.

    Parameter names, shapes and count are timm's and so DINO's: the trained backbone *is* a plain ViT. Query crops pass
    the shared patch embedding and all blocks as extra tokens; a sample's drop-path decision holds for its image and its
    query tokens alike, so even in training the image outputs do not depend on the presence of queries.

    Args:
        arch: Name of a plain ViT of timm (``'vit_small_patch16_224'``), or its sizes
            (``dict(embed_dim=64, depth=4, num_heads=4, patch_size=8)``).
        img_size: Side, or (height, width), in pixels of the images the position embedding is stored for.
        drop_path_rate: Stochastic depth of the last block; grows linearly over the blocks.
        query_keys: What a query token reads: ``'image'`` ([CLS] and patches), ``'image+self'`` (and the tokens of its
            own crop), ``'image+queries'`` (and all query tokens: the released code of the authors).
        bidirectional: Image tokens read query tokens too. Only as the control of the collapse ablation; needs
            ``query_keys='image+queries'`` because then everyone reads everyone.
        query_pos_embed: Add the position embedding, resized to the crop's grid, to query tokens. ADCLR adds no
            parameter and its one released call passes no position, so the default is not to.
        pos_embed_resize: ``'dino'`` (bicubic with DINO's ``(size + 0.1) / grid`` scale factors, which published weights
            and fixtures rely on) or ``'size'`` (timm: exact size, antialiased).
        init: ``'dino'`` (truncated normal, std .02) or ``'xavier'`` for narrow models: at width 64, .02 is six times
            too small for signals to pass.
        grad_checkpointing: What of a block is computed again in the backward pass instead of being kept: nothing
            (False), all that is no product and no attention (``'selective'``: a third of the memory for little time), or
            everything (True).
        class_token: Whether there is a [CLS]; SelfPatch's backbone has none.

    Raises:
        ValueError: Unknown or non-plain ``arch``, unknown ``query_keys`` or ``pos_embed_resize``.
    """

    def __init__(
        self,
        arch: str | dict = 'vit_small_patch16_224',
        img_size: int | tuple[int, int] = 224,
        drop_path_rate: float = 0.0,
        query_keys: str = 'image',
        bidirectional: bool = False,
        query_pos_embed: bool = False,
        pos_embed_resize: str = 'dino',
        init: str = 'dino',
        grad_checkpointing: bool | str = False,
        class_token: bool = True,
    ) -> None:
        _check_choice('query_keys', query_keys, QUERY_KEYS)
        _check_choice('pos_embed_resize', pos_embed_resize, ('dino', 'size'))
        _check_choice('grad_checkpointing', grad_checkpointing, (False, True, 'selective'))
        if bidirectional and query_keys != 'image+queries':
            raise ValueError("bidirectional=True lets every token read every token: set query_keys='image+queries' too")
        super().__init__(
            img_size=img_size,
            num_classes=0,
            global_pool='token' if class_token else 'avg',
            class_token=class_token,
            fc_norm=False,
            drop_path_rate=drop_path_rate,
            dynamic_img_size=True,
            block_fn=QueryBlock,
            attn_layer=QueryAttention,
            weight_init='skip',
            **resolve_arch(arch),
        )
        self.query_keys = query_keys
        self.bidirectional = bidirectional
        self.query_pos_embed = query_pos_embed
        self.pos_embed_resize = pos_embed_resize
        self.init = init
        self.patch_size = self.patch_embed.patch_size[0]
        self.grad_checkpointing = grad_checkpointing
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """DINO's initialisation: linear layers, [CLS] and positions; the patch convolution keeps torch's default."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.patch_embed.proj.reset_parameters()
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        init_linear_layers(self.blocks, self.init)

    def init_weights(self) -> None:
        """Called by the runner before training."""
        self.reset_parameters()

    def forward(self, images: Tensor, query_crops: Tensor | None = None) -> ViTOutput:
        """Encodes images (B, 3, H, W) and, read-only, query crops (B, Q, 3, q, q); sides are multiples of the patch."""
        tokens, layout = self.embed(images, query_crops)
        tokens = self.norm(self.run_blocks(tokens, layout))
        return self.split(tokens, layout)

    def intermediate_tokens(self, images: Tensor, n: int = 1) -> list[Tensor]:
        """Final-normed tokens (B, 1 + N, D) after each of the last ``n`` blocks, first of them first."""
        x, layout = self.embed(images)
        outputs = []
        for block in self.blocks:
            x = block(x, layout)
            outputs.append(x)
        return [self.norm(x) for x in outputs[-n:]]

    def last_attention(self, images: Tensor, query_crops: Tensor | None = None) -> Tensor:
        """Attention map (B, H, S, S) of the last block; rows and columns are [CLS], patches, query tokens."""
        x, layout = self.embed(images, query_crops)
        for block in self.blocks[:-1]:
            x = block(x, layout)
        last = self.blocks[-1]
        return last.attn.weights(last.norm1(x), layout)

    def embed(self, images: Tensor, query_crops: Tensor | None = None) -> tuple[Tensor, TokenLayout]:
        """Token sequence (B, S, D) entering the first block, and its layout."""
        tokens = self.embed_image(images)
        num_image = tokens.shape[1]
        if query_crops is None or query_crops.shape[1] == 0:
            return tokens, TokenLayout(num_image)
        queries = self.embed_queries(query_crops)
        layout = TokenLayout(num_image, queries.shape[2], self.query_keys, self.bidirectional)
        return torch.cat((tokens, queries.flatten(1, 2)), dim=1), layout

    def embed_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1 + N, D), or (B, N, D) without class token, with positions."""
        grid = self.embed_patches(images)
        tokens = grid.flatten(1, 2)
        if self.cls_token is not None:
            tokens = torch.cat((self.cls_token.expand(len(grid), -1, -1), tokens), dim=1)
        return tokens + self.position_embedding(*grid.shape[1:3])

    def embed_queries(self, crops: Tensor) -> Tensor:
        """(B, Q, 3, q, q) -> (B, Q, T, D)."""
        grid = self.embed_patches(crops.flatten(0, 1))
        tokens = grid.flatten(1, 2)
        if self.query_pos_embed:
            tokens = tokens + self.position_embedding(*grid.shape[1:3])[:, self.num_prefix_tokens :]
        return tokens.unflatten(0, crops.shape[:2])

    def embed_patches(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> grid (B, H/P, W/P, D)."""
        if images.shape[-2] % self.patch_size or images.shape[-1] % self.patch_size:
            raise ValueError(
                f'input of {images.shape[-2]}x{images.shape[-1]} pixels: both sides must be multiples of the patch size '
                f'{self.patch_size}; change the crop sizes of the data pipeline or the arch'
            )
        return self.patch_embed(images)

    def position_embedding(self, height: int, width: int) -> Tensor:
        """(1, 1 + height*width, D), resized unless the grid is the stored one."""
        stored = self.patch_embed.grid_size
        if (height, width) == stored:
            return self.pos_embed
        if self.pos_embed_resize == 'size':
            return resample_abs_pos_embed(self.pos_embed, (height, width), stored, self.num_prefix_tokens)
        return resize_positions(self.pos_embed, stored, (height, width), self.num_prefix_tokens)

    def run_blocks(self, x: Tensor, layout: TokenLayout) -> Tensor:
        for block in self.blocks:
            x = self.run_block(block, x, layout)
        return x

    def run_block(self, block: QueryBlock, x: Tensor, layout: TokenLayout) -> Tensor:
        """One block (B, S, D) -> (B, S, D), recomputed in the backward pass as far as activations are not to be kept."""
        if not self.grad_checkpointing or not torch.is_grad_enabled():
            return block(x, layout)
        if self.grad_checkpointing == 'selective':
            return checkpoint(block, x, layout, use_reentrant=False, context_fn=keep_products)
        return checkpoint(block, x, layout, use_reentrant=False)

    def split(self, tokens: Tensor, layout: TokenLayout) -> ViTOutput:
        """Token sequence (B, S, D) -> its named parts."""
        n, t = layout.num_image, layout.tokens_per_crop
        queries = (
            tokens[:, n:].unflatten(1, (-1, t))
            if tokens.shape[1] > n
            else tokens.new_empty(len(tokens), 0, t, tokens.shape[2])
        )
        cls = None if self.cls_token is None else tokens[:, 0]
        return ViTOutput(cls, tokens[:, self.num_prefix_tokens : n], queries)


def keep_products() -> tuple:
    """Contexts for ``checkpoint`` under which products and attention are kept, and the cheap rest is computed again."""
    return create_selective_checkpoint_contexts(_save_products)


def _save_products(context, operation, *args, **kwargs) -> CheckpointPolicy:
    name = operation.__name__.split('.')[0]
    expensive = name in ('mm', 'addmm', 'bmm', 'convolution') or name.startswith('_scaled_dot_product')
    return CheckpointPolicy.MUST_SAVE if expensive else CheckpointPolicy.PREFER_RECOMPUTE


def resize_positions(pos_embed: Tensor, stored: tuple[int, int], grid: tuple[int, int], num_prefix: int = 1) -> Tensor:
    """Position embedding (1, num_prefix + h*w, D) of a ``stored`` grid (h, w) for another ``grid``, as DINO resizes it.

    Bicubic by scale factors. facebookresearch/dino, ``vision_transformer.py: interpolate_pos_encoding`` adds 0.1 to the
    new size to guard it against rounding, and moves the sampling points a little by doing so.
    """
    prefix, positions = pos_embed[:, :num_prefix], pos_embed[:, num_prefix:]
    scale = tuple((new + 0.1) / old for new, old in zip(grid, stored, strict=True))
    positions = positions.unflatten(1, stored).permute(0, 3, 1, 2)
    positions = F.interpolate(positions, scale_factor=scale, mode='bicubic')
    return torch.cat((prefix, positions.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)


def resolve_arch(arch: str | dict) -> dict:
    """Sizes of a plain ViT given by timm name or explicitly.

    Raises:
        ValueError: The name is unknown, or names a model whose weights are not those of a plain ViT, or the explicit
            sizes are not those of one.
    """
    if not isinstance(arch, str):
        return _check_sizes(dict(arch))
    if not timm.is_model(arch):
        close = difflib.get_close_matches(arch, timm.list_models('*vit*') + timm.list_models('deit*'))
        hint = f'; did you mean {" or ".join(close)}?' if close else ''
        raise ValueError(f'arch {arch!r} is no model of timm {timm.__version__}{hint}')
    with torch.device('meta'):
        model = timm.create_model(arch, num_classes=0)
    if not isinstance(model, VisionTransformer):
        raise ValueError(f'arch {arch!r} is a {type(model).__name__}, not a plain vision transformer')
    block = model.blocks[0]
    sizes = dict(
        patch_size=model.patch_embed.patch_size[0],
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=block.mlp.fc1.out_features / model.embed_dim,
    )
    with torch.device('meta'):
        plain = VisionTransformer(img_size=model.patch_embed.img_size, num_classes=0, weight_init='skip', **sizes)
    differing = _shapes(plain).items() ^ _shapes(model).items()
    if differing:
        names = ', '.join(sorted({name for name, _ in differing})[:4])
        raise ValueError(f'arch {arch!r} is not a plain ViT with a class token: it differs in {names}')
    return sizes


def _check_sizes(sizes: dict) -> dict:
    unknown, missing = sizes.keys() - SIZES, {'embed_dim', 'depth', 'num_heads', 'patch_size'} - sizes.keys()
    if unknown or missing:
        problem = f'unknown {", ".join(sorted(unknown))}' if unknown else f'missing {", ".join(sorted(missing))}'
        raise ValueError(f'arch={sizes}: {problem}; the sizes of a plain ViT are {", ".join(SIZES)}')
    if sizes['embed_dim'] % sizes['num_heads']:
        raise ValueError(f'arch={sizes}: embed_dim must be a multiple of num_heads')
    return sizes


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _check_choice(name: str, value: str | bool, choices: Sequence[str | bool]) -> None:
    if value not in choices:
        raise ValueError(f'{name}={value!r}: choose one of {", ".join(map(repr, choices))}')
