"""QueryViT: a plain vision transformer with optional query tokens.

Shape legend: B images, N patches, Q query crops, T tokens per crop, D channels, H heads, S = 1 + N + Q*T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple, overload

import torch
from timm.layers import LayerScale
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmadclr.annotations import MaybeNone
from mmadclr.models.backbones.architectures import (
    SIZES,
    arch_options,
    check_choice,
    resolve_arch,
    uses_rope,
    vit_arguments,
)
from mmadclr.models.backbones.initial_weights import INIT_KEYS, check_init_cfg, load_initial_weights
from mmadclr.models.backbones.patch_product import PatchProduct
from mmadclr.models.backbones.query_block import (
    QUERY_KEYS,
    JointLayout,
    QueryAttention,
    QueryBlock,
    TokenLayout,
    UnbiasedKeyAttention,
    keep_products,
)
from mmadclr.models.backbones.resizing import RULES, resize_by_rule, resize_positions
from mmadclr.models.backbones.rope import build_rope
from mmadclr.models.init import init_linear_layers, init_mocov3_embedding
from mmadclr.registry import MODELS

__all__ = ['SIZES', 'QueryViT', 'ViTOutput', 'ViewGroup', 'resize_positions', 'resolve_arch']


class ViTOutput(NamedTuple):
    """Final-normed tokens without registers: ``cls`` (B, D; None without class token), ``patches`` (B, N, D; None if not
    requested), ``queries`` (B, Q, T, D).
    """

    cls: Tensor | MaybeNone
    patches: Tensor | MaybeNone
    queries: Tensor


class ViewGroup(NamedTuple):
    """Views of one resolution with their other inputs: the arguments of ``QueryViT``."""

    images: Tensor
    query_crops: Tensor | None = None
    patches: bool = True
    mask: Tensor | None = None


@MODELS.register_module()
class QueryViT(VisionTransformer):
    """Plain vision transformer in which query tokens attend to the other tokens without influencing them.

    Parameter names, shapes and count are timm's and DINO's: the trained backbone *is* a plain ViT. Query crops pass through
    the shared patch embedding and all blocks as extra tokens; a sample's drop-path decision applies to both its image and
    its query tokens, so even in training the image outputs do not depend on the presence of queries.

    Args:
        arch: Name of a plain timm ViT (``'vit_small_patch16_224'``) or of a public backbone
            (``'vit_small_patch14_dinov2'``, ``'vit_small_plus_patch16_dinov3'``: see ``architectures.PUBLIC``), or sizes
            (``dict(embed_dim=64, depth=4, num_heads=4, patch_size=8)``; ``mlp_ratio``, 4 by default, is the width of the
            feed-forward layers relative to that of the tokens). The other options of public backbones are the defaults of
            the arguments marked (arch), selected by None.
        img_size: Side, or (height, width), in pixels of the images for which the position embedding is stored.
        drop_path_rate: Stochastic depth of the last block, increasing linearly.
        query_keys: What query tokens attend to: ``'image'`` ([CLS] and patches), ``'image+self'`` (also tokens of the
            same crop), ``'image+queries'`` (also all query tokens: the authors' released code).
        bidirectional: Image tokens also attend to query tokens. Only as control of the collapse ablation; requires
            ``query_keys='image+queries'``, since all tokens attend to all.
        query_pos_embed: Add the position embedding, resized to the crop's grid, to query tokens; not in ADCLR's release.
        pos_embed_resize: ``'dino'`` (bicubic with DINO's ``(size + 0.1) / grid`` scale factors, on which published weights
            and fixtures rely; also DINOv2), ``'size'`` (exact size, antialiased: timm, DINOv2 with registers),
            ``'dino_antialias'``, or ``'size_aliased'`` (transformers). (arch)
        init: ``'dino'`` (truncated normal, std .02), ``'xavier'`` for narrow models (at width 64, .02 is too small for
            signals to propagate), or ``'mocov3'``, which also affects patch projection and [CLS].
        grad_checkpointing: What to recompute in the backward pass instead of storing it: nothing
            (False), everything except matrix products and attention (``'selective'``: a third of the memory at little cost),
            or everything (True).
        class_token: Whether there is a [CLS]; SelfPatch's backbone has none.
        reg_tokens: Registers between [CLS] and patches, without positions (DINOv2, as in timm's ``reg4`` models). (arch)
        layer_scale: Initial value of the learned factors of every branch (DINOv2: 1e-5); False or 0 disables them. (arch)
        final_norm: Whether there is a norm after the last block; SelfPatch's backbone has none.
        mask_token: Add a parameter ``mask_token`` (1, D), initialized to zero, that replaces masked patches in ``forward``
            (iBOT's ``masked_embed``, which only the student has).
        joint_resolutions: Run norms and linear layers once over the tokens of all groups of views passed to ``encode``,
            instead of once per group; attention stays within groups. Same results up to rounding and the order of
            stochastic depth. Larger and fewer matrix products, most useful at small batch sizes; no benefit on a CPU.
            None: on a GPU.
        ffn: ``'mlp'``, or gated ``'swiglu'``. (arch)
        rope: Rotary positions of patches in every block instead of the position embedding: True for those of DINOv3,
            or a dict of arguments of ``RotaryPositions``; False for none. [CLS], registers and query tokens have no
            position: they are not rotated, like a patch at the image center. (arch)
        qkv_bias: Whether queries, keys and values have biases; ``'qv'``: no key bias. (arch)
        norm_eps: Epsilon of norms. (arch)
        init_cfg: Weights to start from: ``dict(type='Pretrained', checkpoint=PATH)``, file or folder; also INIT_KEYS.

    Raises:
        ValueError: Unknown or non-plain ``arch``, an unknown choice of an option, or conflicting options.
    """

    config_keys: ClassVar = {'init_cfg': INIT_KEYS}
    embed_dim: int
    weights_origin: dict[str, str]  # set by `load_weights`: see mmadclr.checkpoint.families

    def __init__(
        self,
        arch: str | dict = 'vit_small_patch16_224',
        img_size: int | tuple[int, int] = 224,
        drop_path_rate: float = 0.0,
        query_keys: str = 'image',
        bidirectional: bool = False,
        query_pos_embed: bool = False,
        pos_embed_resize: str | None = None,
        init: str = 'dino',
        grad_checkpointing: bool | str = False,
        class_token: bool = True,
        reg_tokens: int | None = None,
        layer_scale: float | None = None,
        final_norm: bool = True,
        mask_token: bool = False,
        joint_resolutions: bool | None = None,
        ffn: str | None = None,
        rope: bool | dict | None = None,
        qkv_bias: bool | str | None = None,
        norm_eps: float | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        check_init_cfg(init_cfg, type(self).__name__)
        own = arch_options(
            arch,
            pos_embed_resize=pos_embed_resize,
            reg_tokens=reg_tokens,
            layer_scale=layer_scale,
            ffn=ffn,
            rope=rope,
            qkv_bias=qkv_bias,
            norm_eps=norm_eps,
        )
        _check_options(query_keys, bidirectional, query_pos_embed, grad_checkpointing, own)
        sizes = resolve_arch(arch)
        super().__init__(
            img_size=img_size,
            num_classes=0,
            class_token=class_token,
            global_pool='token' if class_token else 'avg',
            final_norm=final_norm,
            drop_path_rate=drop_path_rate,
            **{**sizes, **vit_arguments(sizes, own)},
            embed_layer=PatchProduct,
            block_fn=QueryBlock,
            attn_layer=UnbiasedKeyAttention if own['qkv_bias'] == 'qv' else QueryAttention,
            weight_init='skip',
        )
        self.query_keys, self.bidirectional, self.query_pos_embed = query_keys, bidirectional, query_pos_embed
        self.pos_embed_resize, self.init = own['pos_embed_resize'], init
        self.layer_scale = own['layer_scale'] or None
        self.patch_size = self.patch_embed.patch_size[0]
        self.grad_checkpointing = grad_checkpointing
        self.joint_resolutions = joint_resolutions
        self.mask_token = nn.Parameter(torch.zeros(1, self.embed_dim)) if mask_token else None
        self.rope = build_rope(own['rope'], self.embed_dim // sizes['num_heads'])
        self.init_cfg = init_cfg
        self.reset_parameters()

    @classmethod
    def patch_size_of(cls, settings: Mapping) -> int | None:
        """Side of the patches in pixels, for a backbone with these arguments; None if ``arch`` is that of a file."""
        return None if settings['arch'] is None else resolve_arch(settings['arch'])['patch_size']

    def reset_parameters(self) -> None:
        """DINO's initialization of linear layers, [CLS] and positions; the patch projection keeps torch's default.

        With ``init='mocov3'`` everything except positions is initialized as in MoCo v3.
        """
        self.weights_origin = {}  # random weights come from nobody
        for token in (self.pos_embed, self.cls_token, self.reg_token):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)
        if self.mask_token is not None:
            nn.init.zeros_(self.mask_token)
        if self.rope is not None:
            self.rope.reset_parameters()
        self.patch_embed.proj.reset_parameters()
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif self.layer_scale is not None and isinstance(module, LayerScale):
                nn.init.constant_(module.gamma, self.layer_scale)
        init_linear_layers(self.blocks, self.init)
        if self.init == 'mocov3':
            init_mocov3_embedding(self.patch_embed.proj, self.cls_token)

    def init_weights(self) -> None:
        """Initializes weights, then loads those of ``init_cfg``; called by the runner before training."""
        self.reset_parameters()
        no_norm, no_cls = isinstance(self.norm, nn.Identity), self.cls_token is None
        load_initial_weights(self, self.init_cfg, ('norm.*',) * no_norm + ('cls_token',) * no_cls)

    def encode(self, *groups: ViewGroup) -> list[ViTOutput]:
        """Encodes every group of views as ``forward`` does; with ``joint_resolutions`` in a single pass."""
        joint = groups[0].images.is_cuda if self.joint_resolutions is None else self.joint_resolutions
        if joint and len(groups) > 1:
            return self(groups)  # __call__, as required by FSDP and compiled backbones
        return [self(*group) for group in groups]

    @overload
    def forward(
        self, images: Tensor, query_crops: Tensor | None = ..., patches: bool = ..., mask: Tensor | None = ...
    ) -> ViTOutput: ...

    @overload
    def forward(self, images: Sequence[ViewGroup]) -> list[ViTOutput]: ...

    def forward(
        self,
        images: Tensor | Sequence[ViewGroup],
        query_crops: Tensor | None = None,
        patches: bool = True,
        mask: Tensor | None = None,
    ) -> ViTOutput | list[ViTOutput]:
        """Encodes images (B, 3, H, W) and, read-only, query crops (B, Q, 3, q, q); sides are multiples of the patch size.

        ``patches=False`` skips what only patches need in the last block: only its keys and values of patches are
        computed. The other outputs are unchanged up to rounding. Where ``mask`` (B, N) or (B, H/P, W/P) is True, the
        mask token replaces the patch embedding; its position is kept. For groups of views instead of images see
        ``encode``.

        Raises:
            ValueError: Sides that are not multiples of the patch size; a mask without mask token or of another size.
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
        """Final-normed tokens (B, 1 + N, D; registers after [CLS]) after each of the last ``n`` blocks, in block order."""
        x, layout = self.embed(images)
        outputs = []
        for index, block in enumerate(self.blocks):
            x = block(x, layout.of_block(index))
            outputs.append(x)
        return [self.norm(x) for x in outputs[-n:]]

    def last_attention(self, images: Tensor, query_crops: Tensor | None = None) -> Tensor:
        """Attention map (B, H, S, S) of the last block; rows and columns are [CLS], patches, query tokens."""
        x, layout = self.embed(images, query_crops)
        for index, block in enumerate(self.blocks[:-1]):
            x = block(x, layout.of_block(index))
        last = self.blocks[-1]
        return last.attn.weights(last.norm1(x), layout.of_block(-1))

    def embed(
        self, images: Tensor, query_crops: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, TokenLayout]:
        """Token sequence (B, S, D) entering the first block, and its layout."""
        tokens = self.embed_image(images, mask)
        num_image = tokens.shape[1]
        if query_crops is None or query_crops.shape[1] == 0:
            return tokens, TokenLayout(num_image, rotations=self.rotations(images, num_image))
        queries = self.embed_queries(query_crops)
        tokens = torch.cat((tokens, queries.flatten(1, 2)), dim=1)
        rotations = self.rotations(images, tokens.shape[1])
        return tokens, TokenLayout(num_image, queries.shape[2], self.query_keys, self.bidirectional, rotations)

    def rotations(self, images: Tensor, num_tokens: int) -> Tensor | None:
        """Cosines and sines for all tokens of images and queries, with rotary positions; see ``TokenLayout``."""
        if self.rope is None:
            return None
        grid = (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)
        return self.rope(grid, len(self.blocks), self.num_prefix_tokens, num_tokens)

    def embed_image(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) -> [CLS] and registers, if any, and patches (B, 1 + R + N, D), with positions."""
        grid = self.embed_patches(images)
        if mask is not None:
            grid = self.hide(grid, mask)
        tokens = grid.flatten(1, 2)
        prefix = [token.expand(len(grid), -1, -1) for token in (self.cls_token, self.reg_token) if token is not None]
        if self.pos_embed is None:
            return torch.cat((*prefix, tokens), dim=1)
        positions = self.position_embedding(*grid.shape[1:3])
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
                'mask: this backbone has no mask token; set mask_token=True of QueryViT, or pass no mask (the '
                'teacher of iBOT, which has no mask token, sees full images)'
            )
        if mask.shape not in (grid.shape[:3], grid.flatten(1, 2).shape[:2]):
            raise ValueError(
                f'mask of shape {tuple(mask.shape)}: the images have {tuple(grid.shape[:3])} patches (images, rows, '
                f'columns) of {self.patch_size} pixels; masks must have the patch size of the backbone'
            )
        mask = mask.reshape(*grid.shape[:3], 1).to(grid.device, non_blocking=True)
        return torch.where(mask, self.mask_token.to(grid.dtype), grid)

    @property
    def num_positioned_prefix(self) -> int:
        """Number of prefix tokens with a position: [CLS], unless there are registers."""
        return 0 if self.no_embed_class else self.num_prefix_tokens

    def position_embedding(self, height: int, width: int) -> Tensor:
        """(1, 1 + height*width, D), with registers (1, height*width, D); resized unless the grid is the stored one."""
        stored = self.patch_embed.grid_size
        if (height, width) == stored:
            return self.pos_embed
        return resize_by_rule(self.pos_embed, stored, (height, width), self.num_positioned_prefix, self.pos_embed_resize)

    def run_blocks(self, x: Tensor, layout: TokenLayout | JointLayout, patches: bool = True) -> Tensor:
        """(B, S, D) -> (B, S, D), or without patches (B, 1 + Q*T, D); rows (R, D) likewise."""
        *first, last = self.blocks
        for index, block in enumerate(first):
            x = self.run_block(block, x, layout.of_block(index))
        return self.run_block(last, x, layout.of_block(-1), patches)

    def run_block(self, block: QueryBlock, x: Tensor, layout: TokenLayout | JointLayout, patches: bool = True) -> Tensor:
        """One block (B, S, D) -> (B, S, D), with gradient checkpointing if configured."""
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


def _check_options(
    query_keys: str, bidirectional: bool, query_pos_embed: bool, grad_checkpointing: bool | str, own: dict
) -> None:
    check_choice('query_keys', query_keys, QUERY_KEYS)
    check_choice('pos_embed_resize', own['pos_embed_resize'], tuple(RULES))
    check_choice('grad_checkpointing', grad_checkpointing, (False, True, 'selective'))
    check_choice('qkv_bias', own['qkv_bias'], (True, False, 'qv'))
    if isinstance(own['reg_tokens'], bool) or not isinstance(own['reg_tokens'], int) or own['reg_tokens'] < 0:
        raise ValueError(f'reg_tokens={own["reg_tokens"]!r} must be an integer of at least 0')
    if isinstance(own['norm_eps'], bool) or not isinstance(own['norm_eps'], (int, float)) or own['norm_eps'] <= 0:
        raise ValueError(f'norm_eps={own["norm_eps"]!r} must be a positive number')
    if bidirectional and query_keys != 'image+queries':
        raise ValueError("bidirectional=True lets every token attend to every token: also set query_keys='image+queries'")
    if not uses_rope(own):
        return
    if query_pos_embed:
        raise ValueError('query_pos_embed=True requires a position embedding, which rope replaces: remove one of them')
    if own['pos_embed_resize'] != 'dino':
        raise ValueError(
            f'pos_embed_resize={own["pos_embed_resize"]!r} requires a position embedding, which rope replaces: remove one '
            'of them'
        )
