"""Optimizer wrapper and parameter groups of DINO."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager, nullcontext

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

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
    norms = torch._foreach_norm(gradients)
    torch._foreach_add_(norms, 1e-6)
    torch._foreach_reciprocal_(norms)
    torch._foreach_mul_(norms, max_norm)
    torch._foreach_clamp_max_(norms, 1.0)
    torch._foreach_mul_(gradients, norms)


@OPTIM_WRAPPERS.register_module()
class SelfDistillationOptimWrapper(OptimWrapper):
    """mmengine's wrapper with per-tensor clipping, parameters that can be frozen for a while, and bf16.

    Args:
        max_norm: Norm each gradient tensor is clipped to; None or 0 for no clipping.
        precision: ``'fp32'``, ``'bf16'`` (autocast; no loss scaling is needed) or ``'auto'``: bf16 where the GPU
            supports it, else fp32.
        **kwargs: See ``mmengine.optim.OptimWrapper``.

    Raises:
        ValueError: Unknown precision, a negative norm, or an impossible number of accumulated batches.
    """

    def __init__(self, optimizer, max_norm: float | None = None, precision: str = 'auto', **kwargs) -> None:
        if kwargs.get('clip_grad') is not None:
            raise ValueError('clip_grad of mmengine clips the global norm; set max_norm to clip each tensor as DINO does')
        counts = kwargs.get('accumulative_counts', 1)
        if not isinstance(counts, int) or counts < 1:
            raise ValueError(f'accumulative_counts={counts}: the number of batches per optimizer step must be 1 or more')
        if max_norm is not None and max_norm < 0:
            raise ValueError(f'max_norm={max_norm} is negative; use None for no clipping')
        super().__init__(optimizer, **kwargs)
        self.max_norm = max_norm
        self.dtype = PRECISIONS[resolve_precision(precision)]
        self.frozen: list[nn.Parameter] = []

    @property
    def accumulative_counts(self) -> int:
        """Batches per optimizer step."""
        return self._accumulative_counts

    def step(self, **kwargs) -> None:
        """Clips, drops the gradients of frozen parameters (so that no decay and no moment touches them), steps."""
        if self.max_norm:
            parameters = (p for group in self.optimizer.param_groups for p in group['params'])
            clip_each_tensor([p.grad for p in parameters if p.grad is not None], self.max_norm)
        for parameter in self.frozen:
            parameter.grad = None
        self.optimizer.step(**kwargs)

    @contextmanager
    def optim_context(self, model: nn.Module):
        device = next(model.parameters()).device.type
        autocast = nullcontext() if self.dtype is None else torch.autocast(device, dtype=self.dtype)
        with super().optim_context(model), autocast:
            yield


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
        optimizer = root.OPTIMIZERS.build({**cfg.pop('optimizer'), 'params': groups})
        return OPTIM_WRAPPERS.build({**cfg, 'optimizer': optimizer})
