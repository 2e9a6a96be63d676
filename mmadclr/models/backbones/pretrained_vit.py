"""PretrainedViT: what backbones of detectors, segmentors and classifiers share: loading, freezing, layer depths."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from mmadclr.models.backbones.query_vit import QueryViT
from mmadclr.registry import WEIGHT_INITIALIZERS

MAX_SIZES = 32  # input sizes whose positions are kept
# Arguments of QueryViT that change nothing without query tokens, masks and groups of views.
OF_PRETRAINING = ('query_keys', 'bidirectional', 'query_pos_embed', 'mask_token', 'joint_resolutions')
INIT_KEYS = {'type', 'checkpoint', 'which', 'prefix', 'allow'}


class PretrainedViT(QueryViT):
    """Plain vision transformer that starts from a checkpoint and can be frozen from below.

    Weights and names are those of pretraining. Position embeddings are stored for ``img_size``, resized to it when a
    checkpoint is loaded, and resized from there to the grid of the input: once per size while they cannot change, and as
    DINO's published code does it (``pos_embed_resize='dino'``).

    Args:
        frozen_stages: -1: everything is trained. 0: patch embedding, [CLS], registers and positions stay as they are. n: so
            do the first n blocks, and the final norm if these are all.
        init_cfg: ``dict(type='Pretrained', checkpoint=PATH)`` with, if needed, ``which``, ``prefix`` and ``allow`` of
            :func:`mmadclr.checkpoint.load_weights`; the path is that of a file, or of a folder of transformers or timm.
            ``checkpoint=None``: random initialization.
        *args, **kwargs: See ``QueryViT``; without what is for pretraining alone (``OF_PRETRAINING``).

    Raises:
        ValueError: Stages that do not exist, an ``init_cfg`` of another kind, or an argument for pretraining alone.
    """

    def __init__(self, *args, frozen_stages: int = -1, init_cfg: dict | None = None, **kwargs) -> None:
        unused = [name for name in OF_PRETRAINING if name in kwargs]
        if unused:
            raise ValueError(f'{unused[0]} has no effect on {type(self).__name__}, which is not for pretraining: remove it')
        super().__init__(*args, **kwargs)
        self._resized_positions: dict[tuple[int, int, int | None], Tensor] = {}
        if not -1 <= frozen_stages <= len(self.blocks):
            raise ValueError(f'frozen_stages={frozen_stages}: choose -1 (none) to {len(self.blocks)} (all blocks)')
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
        """Draws the weights, then loads those of ``init_cfg``; called by the runner before training."""
        self.reset_parameters()
        if self.init_cfg is not None and self.init_cfg.get('checkpoint') is not None:
            unused = ('norm.*',) if isinstance(self.norm, nn.Identity) else ()
            WEIGHT_INITIALIZERS.build({**self.init_cfg, 'type': 'mmadclr.Pretrained', 'unused': unused})(self)

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

    def _apply(self, *args, **kwargs) -> Self:
        self._resized_positions.clear()  # another device or type
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self._resized_positions.clear()
        super()._load_from_state_dict(*args, **kwargs)

    @property
    def frozen(self) -> bool:
        """Whether nothing of the backbone is trained."""
        return self.frozen_stages == len(self.blocks)

    def frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.patch_embed, *self.blocks[: self.frozen_stages], *([self.norm] if self.frozen else [])]

    def train(self, mode: bool = True) -> Self:
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
            f"init_cfg={dict(init_cfg)}: {owner} knows dict(type='Pretrained', checkpoint=PATH) with the keys "
            f'{", ".join(sorted(INIT_KEYS))}'
        )
