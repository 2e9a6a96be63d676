"""Optimizer constructors: which parameters decay, and their learning rates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmadclr.distributed.wrappers import unwrapped
from mmadclr.engine.optimizers.student_groups import DEFAULTS, decays, layer_groups, read_paramwise
from mmadclr.engine.optimizers.wrappers import SelfDistillationOptimWrapper
from mmadclr.models.selfsup.base import SelfDistillation
from mmadclr.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, root


def split_by_decay(named_parameters: Iterable[tuple[str, nn.Parameter]]) -> tuple[list, list]:
    """Trainable parameters with and without weight decay; see ``decays``."""
    decayed: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            (decayed if decays(name, parameter) else exempt).append(parameter)
    return decayed, exempt


def with_fused_kernel(optimizer: dict, device: torch.device) -> dict:
    """Optimizer config with ``fused=True`` where torch has a fused kernel, unless the config chooses otherwise."""
    has_kernel = optimizer['type'] in ('Adam', 'AdamW', 'SGD') and device.type in ('cpu', 'cuda')
    return optimizer if optimizer.keys() & {'fused', 'foreach'} or not has_kernel else {**optimizer, 'fused': True}


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SelfDistillationOptimConstructor:
    """Builds the optimizer over two groups: the first decays (and follows the schedule), the second does not.

    The wrapper gets a reference to the model, whose centers and teacher its step updates.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper.
        paramwise_cfg: For learning rates by layer, in more groups: ``layer_decay``, ``patch_embed_scale``, ``head_scale``,
            all 1 by default; see :func:`mmadclr.engine.optimizers.student_groups.rate_scale`.

    Raises:
        ValueError: Unknown or invalid settings.
    """

    config_keys: ClassVar = {'paramwise_cfg': set(DEFAULTS)}

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.scales = read_paramwise(paramwise_cfg) if paramwise_cfg else None
        self.cfg = optim_wrapper_cfg

    def __call__(self, model: nn.Module) -> OptimWrapper:
        model = unwrapped(model)
        cfg = {'type': 'SelfDistillationOptimWrapper', **self.cfg}
        settings = with_fused_kernel(cfg.pop('optimizer'), next(model.parameters()).device)
        groups = self.groups(model, settings)
        optimizer = root.OPTIMIZERS.build({**settings, 'params': groups})
        wrapper = OPTIM_WRAPPERS.build({**cfg, 'optimizer': optimizer})
        if isinstance(model, SelfDistillation) and isinstance(wrapper, SelfDistillationOptimWrapper):
            wrapper.method = model
        return wrapper

    def groups(self, model: nn.Module, settings: dict) -> list[dict]:
        if self.scales is None:
            decayed, exempt = split_by_decay(model.named_parameters())
            return [{'params': decayed}, {'params': exempt, 'weight_decay': 0.0}]
        if not isinstance(model, SelfDistillation):
            raise ValueError(f'paramwise_cfg has no effect on {type(model).__name__}: remove it')
        of_backbone = [(f'backbone.{name}', parameter) for name, parameter in model.backbone_parameters()]
        of_heads = [pair for pair in model.student.named_parameters() if not pair[0].startswith('backbone.')]
        blocks = len(model.student['backbone'].blocks)
        return layer_groups([*of_backbone, *of_heads], blocks, settings['lr'], self.scales)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimConstructor:
    """Smaller learning rates for earlier blocks: ``lr * decay_rate ** (top - depth)``, for any model over a ``DenseViT``.

    Depths are defined by the backbone (``DenseViT.get_layer_depth``): embeddings 0, block i at i + 1, everything else the
    top. Biases and 1-D parameters do not decay, as in bytedance/ibot, ``mmcv_custom/layer_decay_optimizer_constructor.py``.
    That code also intends to exempt [CLS] and positions, but the names it compares never match; its published numbers were
    obtained with both decayed, hence the default of ``no_decay``.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper.
        paramwise_cfg: ``decay_rate`` in (0, 1], and ``no_decay``: additional backbone parameters without weight decay, given
            by the first part of their name (``('pos_embed', 'cls_token')``).

    Raises:
        ValueError: Unknown or invalid settings, or a model whose backbone does not define depths.
    """

    config_keys: ClassVar = {'paramwise_cfg': {'decay_rate', 'no_decay'}}

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        settings = {'no_decay': (), **(paramwise_cfg or {})}
        if settings.keys() != {'decay_rate', 'no_decay'} or not 0 < settings['decay_rate'] <= 1:
            raise ValueError(f'paramwise_cfg={paramwise_cfg}: set decay_rate in (0, 1] and, if needed, no_decay')
        if isinstance(settings['no_decay'], str):
            raise ValueError(f'no_decay={settings["no_decay"]!r} must be a list of names: [{settings["no_decay"]!r}]')
        self.cfg, self.decay_rate, self.no_decay = optim_wrapper_cfg, settings['decay_rate'], tuple(settings['no_decay'])

    def __call__(self, model: nn.Module) -> OptimWrapper:
        cfg = {'type': 'AutocastOptimWrapper', **self.cfg}
        settings = dict(cfg.pop('optimizer'))
        groups = self.groups(unwrapped(model), settings['lr'], settings.get('weight_decay', 0.0))
        optimizer = root.OPTIMIZERS.build({**settings, 'params': groups})
        return OPTIM_WRAPPERS.build({**cfg, 'optimizer': optimizer})

    def groups(self, model: nn.Module, lr: float, weight_decay: float) -> list[dict]:
        """One parameter group per depth, with and without weight decay, each with the names of its parameters."""
        backbone: Any = getattr(model, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            raise ValueError(f'layer-wise learning rates require a DenseViT backbone, not {type(backbone).__name__}')
        groups: dict[tuple[int, bool], dict] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            depth, num_depths = backbone.get_layer_depth(name, 'backbone.')
            first = name.removeprefix('backbone.').split('.')[0]
            decayed = parameter.ndim > 1 and not name.endswith('.bias') and first not in self.no_decay
            scale = self.decay_rate ** (num_depths - 1 - depth)
            empty = dict(params=[], names=[], lr=lr * scale, weight_decay=weight_decay if decayed else 0.0)
            group = groups.setdefault((depth, decayed), empty)
            group['params'].append(parameter)
            group['names'].append(name)
        return list(groups.values())
