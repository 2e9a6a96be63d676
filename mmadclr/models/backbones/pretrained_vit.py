"""PretrainedViT: base of backbones of detectors, segmentors and classifiers: loading, freezing, layer depths."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from mmadclr.models.backbones.query_vit import QueryViT
from mmadclr.registry import WEIGHT_INITIALIZERS

MAX_SIZES = 32  # cached input sizes of positions
# Arguments of QueryViT without effect if there are no query tokens, masks and groups of views.
OF_PRETRAINING = ('query_keys', 'bidirectional', 'query_pos_embed', 'mask_token', 'joint_resolutions')
INIT_KEYS = {'type', 'checkpoint', 'which', 'prefix', 'allow', 'facts'}


class PretrainedViT(QueryViT):
    """Plain vision transformer initialized from a checkpoint, with optional freezing of lower blocks.

    Weights and names are those of pretraining. Position embeddings are stored for ``img_size``, resized to it when a
    checkpoint is loaded, and resized from there to the grid of the input: cached per size while they are constant, and as
    in DINO's published code (``pos_embed_resize='dino'``).

    Args:
        frozen_stages: -1: train everything. 0: freeze patch embedding, [CLS], registers and positions. n: also freeze
            the first n blocks, and the final norm if these are all blocks.
        init_cfg: ``dict(type='Pretrained', checkpoint=PATH)`` with, if needed, ``which``, ``prefix``, ``allow`` and
            ``facts`` of :func:`mmadclr.checkpoint.load_weights`; PATH is a file, a folder from transformers or timm, or the
            name of a public model (``'timm:vit_small_patch14_dinov2'``). ``checkpoint=None``: random initialization.
        *args, **kwargs: See ``QueryViT``, except pretraining-only arguments (``OF_PRETRAINING``).

    Raises:
        ValueError: Stages out of range, an unsupported ``init_cfg``, or a pretraining-only argument.
    """

    config_keys: ClassVar = {'init_cfg': INIT_KEYS}

    def __init__(self, *args, frozen_stages: int = -1, init_cfg: dict | None = None, **kwargs) -> None:
        unused = [name for name in OF_PRETRAINING if name in kwargs]
        if unused:
            raise ValueError(f'{unused[0]} has no effect on {type(self).__name__}, which does not pretrain: remove it')
        super().__init__(*args, **kwargs)
        self._resized_positions: dict[tuple[int, int, int | None], Tensor] = {}
        if not -1 <= frozen_stages <= len(self.blocks):
            raise ValueError(f'frozen_stages={frozen_stages} must be between -1 (none) and {len(self.blocks)} (all blocks)')
        _check_init_cfg(init_cfg, type(self).__name__)
        self.frozen_stages = frozen_stages
        self.init_cfg = init_cfg
        for module in self.frozen_modules():
            module.requires_grad_(False)
        if frozen_stages >= 0:
            for tensor in (self.pos_embed, self.cls_token, self.reg_token):
                if tensor is not None:
                    tensor.requires_grad_(False)
        self.train()

    def init_weights(self) -> None:
        """Initializes the weights, then loads those of ``init_cfg``; called by the runner before training."""
        self.reset_parameters()
        if self.init_cfg is not None and self.init_cfg.get('checkpoint') is not None:
            unused = ('norm.*',) if isinstance(self.norm, nn.Identity) else ()
            WEIGHT_INITIALIZERS.build({**self.init_cfg, 'type': 'mmadclr.Pretrained', 'unused': unused})(self)

    def position_embedding(self, height: int, width: int) -> Tensor:
        if self.pos_embed.requires_grad and (self.training or torch.is_grad_enabled()):
            return super().position_embedding(height, width)
        if len(self._resized_positions) >= MAX_SIZES:
            self._resized_positions.clear()
        # The version counts in-place changes; inference tensors have none, and cannot change.
        key = (height, width, None if self.pos_embed.is_inference() else self.pos_embed._version)
        if key not in self._resized_positions:
            self._resized_positions[key] = super().position_embedding(height, width).detach()
        return self._resized_positions[key]

    def _apply(self, *args, **kwargs) -> Self:
        self._resized_positions.clear()  # device or dtype may change
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self._resized_positions.clear()
        super()._load_from_state_dict(*args, **kwargs)

    @property
    def frozen(self) -> bool:
        """Whether all parameters of the backbone are frozen."""
        return self.frozen_stages == len(self.blocks)

    def frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.patch_embed, *self.blocks[: self.frozen_stages], *([self.norm] if self.frozen else [])]

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        # Weights may have been swapped without autograd noticing, as EMA hooks do before evaluation.
        self._resized_positions.clear()
        for module in self.frozen_modules():
            module.eval()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """(depth of a parameter, number of depths) for layer-wise learning rates, in mmpretrain's convention.

        Embeddings have depth 0, block i has i + 1, everything else including necks and heads has the maximum. As in
        bytedance/ibot, ``mmcv_custom/layer_decay_optimizer_constructor.py``.
        """
        top = len(self.blocks) + 1
        name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix):
            depth = top
        elif name.split('.')[0] in ('cls_token', 'reg_token', 'pos_embed', 'patch_embed'):
            depth = 0
        else:
            depth = int(name.split('.')[1]) + 1 if name.startswith('blocks.') else top
        return depth, top + 1


def _check_init_cfg(init_cfg: dict | None, owner: str) -> None:
    if init_cfg is None:
        return
    if init_cfg.get('type') != 'Pretrained' or init_cfg.keys() - INIT_KEYS:
        raise ValueError(
            f"init_cfg={dict(init_cfg)}: {owner} accepts dict(type='Pretrained', checkpoint=PATH) with the keys "
            f'{", ".join(sorted(INIT_KEYS))}'
        )
