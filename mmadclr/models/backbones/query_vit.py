"""QueryViT: a plain vision transformer that can carry extra query tokens.

Shape legend: B images, N patches, Q query crops, T tokens per crop, D channels, H heads, S = 1 + N + Q*T tokens.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import timm
import torch
import torch.nn.functional as F
from timm.layers import LayerScale, resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmadclr.models.backbones.query_block import (
    QUERY_KEYS,
    JointLayout,
    QueryAttention,
    QueryBlock,
    TokenLayout,
    keep_products,
)
from mmadclr.models.init import init_linear_layers, init_mocov3_embedding
from mmadclr.registry import MODELS

SIZES = ('patch_size', 'embed_dim', 'depth', 'num_heads', 'mlp_ratio')


class ViTOutput(NamedTuple):
    """Final-normed tokens, registers left out: ``cls`` (B, D; None without class token), ``patches`` (B, N, D; None where
    not asked for), ``queries`` (B, Q, T, D)."""

    cls: Tensor | None
    patches: Tensor | None
    queries: Tensor


class ViewGroup(NamedTuple):
    """Views of one resolution, with what goes with them: the arguments of ``QueryViT``."""

    images: Tensor
    query_crops: Tensor | None = None
    patches: bool = True
    mask: Tensor | None = None


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
        init: ``'dino'`` (truncated normal, std .02), ``'xavier'`` for narrow models (at width 64, .02 is six times too small
            for signals to pass), or ``'mocov3'``, of which patch projection and [CLS] have a part, too.
        grad_checkpointing: What of a block is computed again in the backward pass instead of being kept: nothing
            (False), all that is no product and no attention (``'selective'``: a third of the memory for little time), or
            everything (True).
        class_token: Whether there is a [CLS]; SelfPatch's backbone has none.
        reg_tokens: Registers between [CLS] and patches, without positions (DINOv2, as in timm's ``reg4`` models).
        layer_scale: Initial factor of every branch of a block, learned from there (DINOv2: 1e-5); None for no factors.
        final_norm: Whether there is a norm after the last block; SelfPatch's backbone has none.
        mask_token: Have a parameter ``mask_token`` (1, D), zero at first, that ``forward`` puts in the place of masked
            patches (iBOT's ``masked_embed``, there in the student only).
        joint_resolutions: Norms and linear layers run once over the tokens of all groups of views that ``encode`` is given,
            not once a group; attention stays in its group. Same results, but for rounding, and for stochastic depth, which
            draws in another order. Larger and fewer products, most at small batches; on a CPU it does not pay.

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
        reg_tokens: int = 0,
        layer_scale: float | None = None,
        final_norm: bool = True,
        mask_token: bool = False,
        joint_resolutions: bool = False,
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
            final_norm=final_norm,
            reg_tokens=reg_tokens,
            no_embed_class=reg_tokens > 0,
            init_values=layer_scale,
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
        self.layer_scale = layer_scale
        self.patch_size = self.patch_embed.patch_size[0]
        self.grad_checkpointing = grad_checkpointing
        self.joint_resolutions = joint_resolutions
        self.mask_token = nn.Parameter(torch.zeros(1, self.embed_dim)) if mask_token else None
        self.reset_parameters()

    @classmethod
    def patch_size_of(cls, settings: Mapping) -> int:
        """Pixels along a side of the patches of a backbone with these arguments."""
        return resolve_arch(settings['arch'])['patch_size']

    def reset_parameters(self) -> None:
        """DINO's initialization: linear layers, [CLS] and positions; the patch convolution keeps torch's default.

        With ``init='mocov3'`` all but positions is that of MoCo v3.
        """
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for token in (self.cls_token, self.reg_token):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)
        if self.mask_token is not None:
            nn.init.zeros_(self.mask_token)
        self.patch_embed.proj.reset_parameters()
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, LayerScale):
                nn.init.constant_(module.gamma, self.layer_scale)
        init_linear_layers(self.blocks, self.init)
        if self.init == 'mocov3':
            init_mocov3_embedding(self.patch_embed.proj, self.cls_token)

    def init_weights(self) -> None:
        """Called by the runner before training."""
        self.reset_parameters()

    def encode(self, *groups: ViewGroup) -> list[ViTOutput]:
        """Every group of views as by ``forward``; with ``joint_resolutions`` all of them in one pass."""
        if self.joint_resolutions and len(groups) > 1:
            return self(groups)  # a call, as shards and compiled backbones need it
        return [self(*group) for group in groups]

    def forward(
        self,
        images: Tensor | Sequence[ViewGroup],
        query_crops: Tensor | None = None,
        patches: bool = True,
        mask: Tensor | None = None,
    ) -> ViTOutput | list[ViTOutput]:
        """Encodes images (B, 3, H, W) and, read-only, query crops (B, Q, 3, q, q); sides are multiples of the patch.

        ``patches=False`` spares the last block what only patches would need: of its products, those of keys and values
        remain. What is left of the output is the same, up to rounding. Where ``mask`` (B, N) or (B, H/P, W/P) is True, the
        mask token takes the place of the patch's embedding; its position stays. Groups of views instead of images: see
        ``encode``.

        Raises:
            ValueError: Sides that are no multiple of the patch; a mask without a mask token or of another size.
        """
        if not isinstance(images, Tensor):
            return self.forward_jointly(images)
        tokens, layout = self.embed(images, query_crops, mask)
        patches = patches or self.cls_token is None
        return self.split(self.norm(self.run_blocks(tokens, layout, patches)), layout, patches)

    def forward_jointly(self, groups: Sequence[ViewGroup]) -> list[ViTOutput]:
        """One pass over the tokens of all groups."""
        embedded = [self.embed(group.images, group.query_crops, group.mask) for group in groups]
        tokens, layouts = zip(*embedded, strict=True)
        patches = tuple(group.patches or self.cls_token is None for group in groups)
        layout = JointLayout(layouts, tuple((x.shape[0], x.shape[1]) for x in tokens), patches)
        rows = self.norm(self.run_blocks(layout.join(tokens), layout, all(patches)))
        return [self.split(*group) for group in zip(layout.of_rest().part(rows), layouts, patches, strict=True)]

    def intermediate_tokens(self, images: Tensor, n: int = 1) -> list[Tensor]:
        """Final-normed tokens (B, 1 + N, D; registers after [CLS]) after each of the last ``n`` blocks, in their order."""
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

    def embed(
        self, images: Tensor, query_crops: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, TokenLayout]:
        """Token sequence (B, S, D) entering the first block, and its layout."""
        tokens = self.embed_image(images, mask)
        num_image = tokens.shape[1]
        if query_crops is None or query_crops.shape[1] == 0:
            return tokens, TokenLayout(num_image)
        queries = self.embed_queries(query_crops)
        layout = TokenLayout(num_image, queries.shape[2], self.query_keys, self.bidirectional)
        return torch.cat((tokens, queries.flatten(1, 2)), dim=1), layout

    def embed_image(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) -> [CLS] and registers, as far as there are any, and patches (B, 1 + R + N, D), with positions."""
        grid = self.embed_patches(images)
        if mask is not None:
            grid = self.hide(grid, mask)
        tokens, positions = grid.flatten(1, 2), self.position_embedding(*grid.shape[1:3])
        prefix = [token.expand(len(grid), -1, -1) for token in (self.cls_token, self.reg_token) if token is not None]
        if self.no_embed_class:
            return torch.cat((*prefix, tokens + positions), dim=1)
        return torch.cat((*prefix, tokens), dim=1) + positions

    def embed_queries(self, crops: Tensor) -> Tensor:
        """(B, Q, 3, q, q) -> (B, Q, T, D)."""
        grid = self.embed_patches(crops.flatten(0, 1))
        tokens = grid.flatten(1, 2)
        if self.query_pos_embed:
            tokens = tokens + self.position_embedding(*grid.shape[1:3])[:, self.num_positioned_prefix :]
        return tokens.unflatten(0, crops.shape[:2])

    def embed_patches(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> grid (B, H/P, W/P, D)."""
        if images.shape[-2] % self.patch_size or images.shape[-1] % self.patch_size:
            raise ValueError(
                f'input of {images.shape[-2]}x{images.shape[-1]} pixels: both sides must be multiples of the patch size '
                f'{self.patch_size}; change the crop sizes of the data pipeline or the arch'
            )
        return self.patch_embed(images)

    def hide(self, grid: Tensor, mask: Tensor) -> Tensor:
        """Grid (B, h, w, D) with the mask token where ``mask``, (B, h, w) or (B, h*w), is True."""
        if self.mask_token is None:
            raise ValueError(
                'mask: this backbone has no mask token; set mask_token=True of QueryViT, or leave the images unmasked (the '
                'teacher of iBOT, which has none, reads whole images)'
            )
        if mask.shape not in (grid.shape[:3], grid.flatten(1, 2).shape[:2]):
            raise ValueError(
                f'mask of shape {tuple(mask.shape)}: the images have {tuple(grid.shape[:3])} patches (images, rows, '
                f'columns) of {self.patch_size} pixels; masks need the patch size of the backbone'
            )
        mask = mask.reshape(*grid.shape[:3], 1).to(grid.device, non_blocking=True)
        return torch.where(mask, self.mask_token.to(grid.dtype), grid)

    @property
    def num_positioned_prefix(self) -> int:
        """Tokens before the patches that have a position of their own: [CLS], unless there are registers."""
        return 0 if self.no_embed_class else self.num_prefix_tokens

    def position_embedding(self, height: int, width: int) -> Tensor:
        """(1, 1 + height*width, D), with registers (1, height*width, D); resized unless the grid is the stored one."""
        stored = self.patch_embed.grid_size
        if (height, width) == stored:
            return self.pos_embed
        if self.pos_embed_resize == 'size':
            return resample_abs_pos_embed(self.pos_embed, (height, width), stored, self.num_positioned_prefix)
        return resize_positions(self.pos_embed, stored, (height, width), self.num_positioned_prefix)

    def run_blocks(self, x: Tensor, layout: TokenLayout | JointLayout, patches: bool = True) -> Tensor:
        """(B, S, D) -> (B, S, D), or without patches (B, 1 + Q*T, D); rows (R, D) likewise."""
        *first, last = self.blocks
        for block in first:
            x = self.run_block(block, x, layout)
        return self.run_block(last, x, layout, patches)

    def run_block(self, block: QueryBlock, x: Tensor, layout: TokenLayout | JointLayout, patches: bool = True) -> Tensor:
        """One block (B, S, D) -> (B, S, D), recomputed in the backward pass as far as activations are not to be kept."""
        if not self.grad_checkpointing or not torch.is_grad_enabled():
            return block(x, layout, patches)
        if self.grad_checkpointing == 'selective':
            return checkpoint(block, x, layout, patches, use_reentrant=False, context_fn=keep_products)
        return checkpoint(block, x, layout, patches, use_reentrant=False)

    def split(self, tokens: Tensor, layout: TokenLayout, patches: bool = True) -> ViTOutput:
        """Token sequence (B, S, D), or without patches (B, 1 + Q*T, D) -> its named parts."""
        n, t = layout.num_image if patches else 1, layout.tokens_per_crop
        queries = (
            tokens[:, n:].unflatten(1, (-1, t))
            if tokens.shape[1] > n
            else tokens.new_empty(len(tokens), 0, t, tokens.shape[2])
        )
        cls = None if self.cls_token is None else tokens[:, 0]
        return ViTOutput(cls, tokens[:, self.num_prefix_tokens : n] if patches else None, queries)


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
    if isinstance(arch, Mapping):
        return _check_sizes(dict(arch))
    if not isinstance(arch, str):
        raise ValueError(
            f'arch={arch!r}: give the name of a timm model, or sizes as a dict (on the command line one by one: '
            'model.backbone.arch.embed_dim=192)'
        )
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
