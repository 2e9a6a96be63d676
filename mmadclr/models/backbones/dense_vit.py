"""DenseViT: a pretrained plain vision transformer as the backbone of detectors and segmentors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmadclr.checkpoint.weights import load_weights
from mmadclr.models.backbones.query_block import TokenLayout
from mmadclr.models.backbones.query_vit import QueryViT
from mmadclr.registry import MODELS

MAX_SIZES = 32  # input sizes whose positions are kept
INIT_KEYS = {'type', 'checkpoint', 'which', 'prefix', 'allow'}


@MODELS.register_module()
class DenseViT(QueryViT):
    """Plain vision transformer that returns the feature maps of several blocks; serves mmdet, mmseg and mmpretrain.

    Weights and names are those of pretraining. Images of any size are padded at the right and the bottom to multiples of
    the patch. Position embeddings are stored for ``img_size``, resized to it when a checkpoint is loaded, and resized
    from there to the grid of the input: once per size while they cannot change, and as DINO's published code does it
    (``pos_embed_resize='dino'``; also what the published detection and segmentation code of iBOT and SelfPatch does).

    Args:
        arch, img_size, drop_path_rate, pos_embed_resize, init, grad_checkpointing, class_token: See ``QueryViT``.
        out_indices: Blocks, from 0, whose outputs are returned, in ascending order; repetitions are allowed.
        out_norm: Apply the final norm to every output (iBOT's ``out_with_norm``), or to none; then there is no final norm.
        frozen_stages: -1: everything is trained. 0: patch embedding, [CLS] and positions stay as they are. n: so do the
            first n blocks, and the final norm if these are all.
        init_cfg: ``dict(type='Pretrained', checkpoint=PATH)`` with, if needed, ``which``, ``prefix`` and ``allow`` of
            :func:`mmadclr.checkpoint.load_weights`. ``checkpoint=None``: random initialisation.

    Raises:
        ValueError: Blocks or stages that do not exist, or an ``init_cfg`` of another kind.
    """

    def __init__(
        self,
        arch: str | dict = 'vit_small_patch16_224',
        img_size: int | tuple[int, int] = 224,
        out_indices: Sequence[int] = (3, 5, 7, 11),
        out_norm: bool = False,
        frozen_stages: int = -1,
        drop_path_rate: float = 0.0,
        class_token: bool = True,
        pos_embed_resize: str = 'dino',
        init: str = 'dino',
        grad_checkpointing: bool | str = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            arch,
            img_size,
            drop_path_rate=drop_path_rate,
            pos_embed_resize=pos_embed_resize,
            init=init,
            grad_checkpointing=grad_checkpointing,
            class_token=class_token,
        )
        self._resized_positions: dict[tuple[int, int, int | None], Tensor] = {}
        _check_blocks(out_indices, frozen_stages, len(self.blocks))
        _check_init_cfg(init_cfg)
        self.out_indices = tuple(out_indices)
        self.out_norm = out_norm
        self.frozen_stages = frozen_stages
        self.init_cfg = init_cfg
        if not out_norm:
            self.norm = nn.Identity()
        for module in (*self.frozen_modules(), *self.blocks[self.out_indices[-1] + 1 :]):
            module.requires_grad_(False)
        if frozen_stages >= 0:
            self.pos_embed.requires_grad_(False)
            if self.cls_token is not None:
                self.cls_token.requires_grad_(False)
        self.train()

    def init_weights(self) -> None:
        """Draws the weights, then loads those of ``init_cfg``; called by the runner before training."""
        self.reset_parameters()
        settings = {key: value for key, value in (self.init_cfg or {}).items() if key not in ('type', 'checkpoint')}
        checkpoint = (self.init_cfg or {}).get('checkpoint')
        if checkpoint is not None:
            load_weights(self, checkpoint, **settings, unused=() if self.out_norm else ('norm.*',))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> one map (B, D, ceil(H/P), ceil(W/P)) for each of ``out_indices``."""
        images = pad_to_multiple(images, self.patch_size)
        height, width = (side // self.patch_size for side in images.shape[-2:])
        x, layout = self.embed(images)
        taps = {}
        for index, block in enumerate(self.blocks[: self.out_indices[-1] + 1]):
            x = self.run_block(block, x, layout)
            if index in self.out_indices:
                taps[index] = self.to_map(x, layout, height, width)
        return tuple(taps[index] for index in self.out_indices)

    def to_map(self, tokens: Tensor, layout: TokenLayout, height: int, width: int) -> Tensor:
        """Tokens (B, S, D), normed if the config says so -> patches as a map (B, D, height, width)."""
        patches = self.split(self.norm(tokens), layout).patches
        return patches.transpose(1, 2).unflatten(2, (height, width)).contiguous()

    def position_embedding(self, height: int, width: int) -> Tensor:
        if self.pos_embed.requires_grad and (self.training or torch.is_grad_enabled()):
            return super().position_embedding(height, width)
        if len(self._resized_positions) >= MAX_SIZES:
            self._resized_positions.clear()
        # The version tells in-place changes; it does not exist in inference mode, where there are none.
        key = (height, width, None if self.pos_embed.is_inference() else self.pos_embed._version)
        if key not in self._resized_positions:
            self._resized_positions[key] = super().position_embedding(height, width).detach()
        return self._resized_positions[key]

    def _apply(self, *args, **kwargs) -> DenseViT:
        self._resized_positions.clear()  # another device or type
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self._resized_positions.clear()
        super()._load_from_state_dict(*args, **kwargs)

    def frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        whole = self.frozen_stages == len(self.blocks)
        return [self.patch_embed, *self.blocks[: self.frozen_stages], *([self.norm] if whole else [])]

    def train(self, mode: bool = True) -> DenseViT:
        super().train(mode)
        # Weights may have been exchanged behind autograd's back, as hooks for averaged weights do before evaluation.
        self._resized_positions.clear()
        for module in self.frozen_modules():
            module.eval()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """(depth of a parameter, number of depths) for layer-wise learning rates, in mmpretrain's convention.

        Embeddings are depth 0, block i is i + 1, all else, necks and heads included, is the top. As bytedance/ibot,
        ``mmcv_custom/layer_decay_optimizer_constructor.py``.
        """
        top = len(self.blocks) + 1
        name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix):
            depth = top
        elif name.split('.')[0] in ('cls_token', 'pos_embed', 'patch_embed'):
            depth = 0
        else:
            depth = int(name.split('.')[1]) + 1 if name.startswith('blocks.') else top
        return depth, top + 1


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Zeros at the right and the bottom of (B, 3, H, W) until both sides are multiples."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple))


def _check_blocks(out_indices: Sequence[int], frozen_stages: int, depth: int) -> None:
    indices = [out_indices] if isinstance(out_indices, int) else list(out_indices)
    if (
        isinstance(out_indices, int)
        or not indices
        or indices != sorted(indices)
        or not 0 <= indices[0] <= indices[-1] < depth
    ):
        raise ValueError(f'out_indices={tuple(indices)}: name blocks from 0 to {depth - 1} in ascending order')
    if not -1 <= frozen_stages <= depth:
        raise ValueError(f'frozen_stages={frozen_stages}: choose -1 (none) to {depth} (all blocks)')


def _check_init_cfg(init_cfg: dict | None) -> None:
    if init_cfg is None:
        return
    if init_cfg.get('type') != 'Pretrained' or init_cfg.keys() - INIT_KEYS:
        raise ValueError(
            f"init_cfg={dict(init_cfg)}: DenseViT knows dict(type='Pretrained', checkpoint=PATH) with the keys "
            f'{", ".join(sorted(INIT_KEYS))}'
        )
