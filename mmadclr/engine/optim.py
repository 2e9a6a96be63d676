"""Optimizer wrappers, and the parameter groups of DINO and of fine-tuning."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager, nullcontext

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmadclr.engine.sharding import local_tensors, whole_norms
from mmadclr.models.wrappers import unwrapped
from mmadclr.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, root

PRECISIONS = {'fp32': None, 'bf16': torch.bfloat16}


@torch.no_grad()
def clip_each_tensor(gradients: list[Tensor], max_norm: float) -> None:
    """Scales every gradient *by itself* to at most ``max_norm`` (L2), in place and without waiting for the device.

    As facebookresearch/dino, ``utils.py: clip_gradients``; not the global norm of ``torch.nn.utils.clip_grad_norm_``.
    """
    if not gradients:
        return
    norms = whole_norms(gradients)
    torch._foreach_add_(norms, 1e-6)
    torch._foreach_reciprocal_(norms)
    torch._foreach_mul_(norms, max_norm)
    torch._foreach_clamp_max_(norms, 1.0)
    torch._foreach_mul_(local_tensors(gradients), norms)


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """mmengine's wrapper with bf16 autocast, on the CPU too, and without loss scaling, which bf16 does not need.

    Args:
        precision: ``'fp32'``, ``'bf16'`` or ``'auto'``: bf16 where the GPU supports it, else fp32.
        **kwargs: See ``mmengine.optim.OptimWrapper``.

    Raises:
        ValueError: Unknown precision or an impossible number of accumulated batches.
    """

    def __init__(self, optimizer, precision: str = 'auto', **kwargs) -> None:
        counts = kwargs.get('accumulative_counts', 1)
        if not isinstance(counts, int) or counts < 1:
            raise ValueError(f'accumulative_counts={counts}: the number of batches per optimizer step must be 1 or more')
        super().__init__(optimizer, **kwargs)
        self.dtype = PRECISIONS[resolve_precision(precision)]

    @property
    def accumulative_counts(self) -> int:
        """Batches per optimizer step."""
        return self._accumulative_counts

    @contextmanager
    def optim_context(self, model: nn.Module):
        device = next(model.parameters()).device.type
        autocast = nullcontext() if self.dtype is None else torch.autocast(device, dtype=self.dtype)
        with super().optim_context(model), autocast:
            yield


@OPTIM_WRAPPERS.register_module()
class SelfDistillationOptimWrapper(AutocastOptimWrapper):
    """Adds per-tensor clipping, and parameters that can be frozen for a while.

    Args:
        max_norm: Norm each gradient tensor is clipped to; None or 0 for no clipping.
        **kwargs: See ``AutocastOptimWrapper``.

    Raises:
        ValueError: A negative norm, or clipping of the global norm.
    """

    def __init__(self, optimizer, max_norm: float | None = None, **kwargs) -> None:
        if kwargs.get('clip_grad') is not None:
            raise ValueError('clip_grad of mmengine clips the global norm; set max_norm to clip each tensor as DINO does')
        if max_norm is not None and max_norm < 0:
            raise ValueError(f'max_norm={max_norm} is negative; use None for no clipping')
        super().__init__(optimizer, **kwargs)
        self.max_norm = max_norm
        self.frozen: list[nn.Parameter] = []

    def step(self, **kwargs) -> None:
        """Clips, drops the gradients of frozen parameters (so that no decay and no moment touches them), steps."""
        if self.max_norm:
            parameters = (p for group in self.optimizer.param_groups for p in group['params'])
            clip_each_tensor([p.grad for p in parameters if p.grad is not None], self.max_norm)
        for parameter in self.frozen:
            parameter.grad = None
        self.optimizer.step(**kwargs)


def resolve_precision(precision: str) -> str:
    """``'auto'`` -> ``'bf16'`` on a GPU that supports it, else ``'fp32'``."""
    if precision == 'auto':
        return 'bf16' if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False) else 'fp32'
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}: choose 'auto', 'fp32' or 'bf16'")
    return precision


def split_by_decay(named_parameters: Iterable[tuple[str, nn.Parameter]]) -> tuple[list, list]:
    """Trainable parameters with and without weight decay: biases and vectors have none.

    [CLS], position embeddings and a trainable ``weight_g`` do decay, as in facebookresearch/dino, ``utils.py:
    get_params_groups``; most recipes for supervised ViTs exempt them.
    """
    decayed, exempt = [], []
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            (exempt if name.endswith('.bias') or parameter.ndim == 1 else decayed).append(parameter)
    return decayed, exempt


def with_fused_kernel(optimizer: dict, device: torch.device) -> dict:
    """Config of an optimizer with ``fused=True`` where torch has one kernel for the whole step, unless it says otherwise."""
    has_kernel = optimizer['type'] in ('Adam', 'AdamW', 'SGD') and device.type in ('cpu', 'cuda')
    return optimizer if optimizer.keys() & {'fused', 'foreach'} or not has_kernel else {**optimizer, 'fused': True}


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SelfDistillationOptimConstructor:
    """Builds the optimizer over two groups: the first decays (and follows the schedule), the second does not."""

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        if paramwise_cfg:
            raise ValueError('paramwise_cfg has no effect with SelfDistillationOptimConstructor: remove it')
        self.cfg = optim_wrapper_cfg

    def __call__(self, model: nn.Module) -> OptimWrapper:
        model = unwrapped(model)
        cfg = {'type': 'SelfDistillationOptimWrapper', **self.cfg}
        decayed, exempt = split_by_decay(model.named_parameters())
        groups = [{'params': decayed}, {'params': exempt, 'weight_decay': 0.0}]
        settings = with_fused_kernel(cfg.pop('optimizer'), next(model.parameters()).device)
        optimizer = root.OPTIMIZERS.build({**settings, 'params': groups})
        return OPTIM_WRAPPERS.build({**cfg, 'optimizer': optimizer})


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimConstructor:
    """Smaller learning rates for earlier blocks: ``lr * decay_rate ** (top - depth)``, for any model over a ``DenseViT``.

    Depths are the backbone's own (``DenseViT.get_layer_depth``): embeddings 0, block i at i + 1, everything else the
    top. Vectors and biases do not decay, as bytedance/ibot, ``mmcv_custom/layer_decay_optimizer_constructor.py``. That
    code means to exempt [CLS] and positions too, but compares names that never match; its published numbers were
    obtained with both decayed, hence the default of ``no_decay``.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper.
        paramwise_cfg: ``decay_rate`` in (0, 1], and ``no_decay``: further parameters of the backbone without weight decay,
            by the first part of their name (``('pos_embed', 'cls_token')``).

    Raises:
        ValueError: Unknown or impossible settings, or a model whose backbone knows no depths.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        settings = {'no_decay': (), **(paramwise_cfg or {})}
        if settings.keys() != {'decay_rate', 'no_decay'} or not 0 < settings['decay_rate'] <= 1:
            raise ValueError(f'paramwise_cfg={paramwise_cfg}: set decay_rate in (0, 1] and, if needed, no_decay')
        if isinstance(settings['no_decay'], str):
            raise ValueError(f'no_decay={settings["no_decay"]!r}: give a list of names, [{settings["no_decay"]!r}]')
        self.cfg, self.decay_rate, self.no_decay = optim_wrapper_cfg, settings['decay_rate'], tuple(settings['no_decay'])

    def __call__(self, model: nn.Module) -> OptimWrapper:
        cfg = {'type': 'AutocastOptimWrapper', **self.cfg}
        settings = dict(cfg.pop('optimizer'))
        groups = self.groups(unwrapped(model), settings['lr'], settings.get('weight_decay', 0.0))
        optimizer = root.OPTIMIZERS.build({**settings, 'params': groups})
        return OPTIM_WRAPPERS.build({**cfg, 'optimizer': optimizer})

    def groups(self, model: nn.Module, lr: float, weight_decay: float) -> list[dict]:
        """One parameter group for each depth with and without weight decay, each with the names of its parameters."""
        backbone = getattr(model, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            raise ValueError(f'layer-wise learning rates need a DenseViT as backbone, not {type(backbone).__name__}')
        groups: dict[tuple[int, bool], dict] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            depth, num_depths = backbone.get_layer_depth(name, 'backbone.')
            first = name.removeprefix('backbone.').split('.')[0]
            decays = parameter.ndim > 1 and not name.endswith('.bias') and first not in self.no_decay
            scale = self.decay_rate ** (num_depths - 1 - depth)
            empty = dict(params=[], names=[], lr=lr * scale, weight_decay=weight_decay if decays else 0.0)
            group = groups.setdefault((depth, decays), empty)
            group['params'].append(parameter)
            group['names'].append(name)
        return list(groups.values())
