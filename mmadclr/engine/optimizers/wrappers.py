"""Optimizer wrappers for self-distillation and fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from mmadclr.config.components import Place
from mmadclr.config.findings import Finding, refusals
from mmadclr.distributed.shards import full_norms, local_tensors
from mmadclr.models.detector_precision import autocast_features, mmdet_detectors
from mmadclr.models.selfsup.base import SelfDistillation
from mmadclr.precision import PRECISIONS, check_precision, resolve_precision
from mmadclr.registry import OPTIM_WRAPPERS


@torch.no_grad()
def clip_each_tensor(gradients: list[Tensor], max_norm: float, norms: list[Tensor] | None = None) -> None:
    """Scales each gradient tensor *separately* to an L2 norm of at most ``max_norm``, in place, without synchronizing.

    As in facebookresearch/dino, ``utils.py: clip_gradients``; unlike the global norm of ``torch.nn.utils.clip_grad_norm_``.
    ``norms``: the gradients' norms, if already computed; overwritten.
    """
    if not gradients:
        return
    norms = full_norms(gradients) if norms is None else norms
    torch._foreach_add_(norms, 1e-6)
    torch._foreach_reciprocal_(norms)
    torch._foreach_mul_(norms, max_norm)
    torch._foreach_clamp_max_(norms, 1.0)
    torch._foreach_mul_(local_tensors(gradients), norms)


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """mmengine's wrapper with bf16 autocast, also on CPU, and without loss scaling, which bf16 does not need.

    In mmdet detectors, standalone or nested, only ``extract_feat`` (backbone and neck) runs in bf16; the heads receive fp32
    maps and run in fp32, as at test time. A detector that never calls ``extract_feat`` trains in fp32.

    Args:
        precision: ``'fp32'``, ``'bf16'`` or ``'auto'``: bf16 where the GPU supports it, else fp32.
        **kwargs: See ``mmengine.optim.OptimWrapper``.

    Raises:
        ValueError: Unknown precision, or an invalid number of accumulated batches.
    """

    def __init__(self, optimizer, precision: str = 'auto', **kwargs) -> None:
        counts = kwargs.get('accumulative_counts', 1)
        if not isinstance(counts, int) or counts < 1:
            raise ValueError(f'accumulative_counts={counts} must be an integer of at least 1 (batches per optimizer step)')
        super().__init__(optimizer, **kwargs)
        self.dtype = PRECISIONS[resolve_precision(precision)]

    @classmethod
    def find_conflicts(cls, place: Place) -> Iterator[Finding]:
        """Reports an unknown precision."""
        return refusals(f'{place.path}.', check_precision, place.settings['precision'])

    @property
    def accumulative_counts(self) -> int:
        """Batches per optimizer step."""
        return self._accumulative_counts

    @contextmanager
    def optim_context(self, model: nn.Module):
        with super().optim_context(model), ExitStack() as stack:
            if self.dtype is not None:
                device = next(model.parameters()).device.type
                contexts: list[AbstractContextManager]
                contexts = [autocast_features(detector, device, self.dtype) for detector in mmdet_detectors(model)]
                for context in contexts or [torch.autocast(device, self.dtype)]:
                    stack.enter_context(context)
            yield


@OPTIM_WRAPPERS.register_module()
class SelfDistillationOptimWrapper(AutocastOptimWrapper):
    """The full optimizer step of self-distillation: :meth:`step`.

    Besides the student's weights, it updates centers and teacher, clips each gradient tensor, and can temporarily freeze
    parameters.

    A step whose loss or gradients are not finite is skipped on all processes: parameters, moments and step counts
    are unchanged. ``skipped`` () is 1 after such a step, otherwise 0; it stays on the device, as does the decision
    if the optimizer supports it (fused Adam and AdamW). A gradient whose norm overflows counts as not finite.

    Attributes:
        method: The model whose centers and teacher the step updates, set by ``SelfDistillationOptimConstructor``; None if
            there is none.

    Args:
        max_norm: Maximum norm of each gradient tensor; None or 0 disables clipping.
        **kwargs: See ``AutocastOptimWrapper``.

    Raises:
        ValueError: ``max_norm`` is negative, or ``clip_grad`` is set.
    """

    def __init__(self, optimizer, max_norm: float | None = None, **kwargs) -> None:
        if kwargs.get('clip_grad') is not None:
            raise ValueError('clip_grad of mmengine clips the global norm; set max_norm to clip each tensor as DINO does')
        if max_norm is not None and max_norm < 0:
            raise ValueError(f'max_norm={max_norm} must not be negative; use None to disable clipping')
        super().__init__(optimizer, **kwargs)
        self.method: SelfDistillation | None = None
        self.max_norm = max_norm
        self.frozen: list[nn.Parameter] = []
        self.skipped = torch.zeros((), device=optimizer.param_groups[0]['params'][0].device)
        self.skips_on_device = can_skip_on_device(optimizer)
        if self.skips_on_device:
            optimizer.found_inf = self.skipped
        else:
            name = type(optimizer).__name__
            print_log(
                f'{name} cannot skip steps on the device (fused AdamW can): every step synchronizes with it', 'current'
            )

    def backward(self, loss: Tensor, **kwargs) -> None:
        """Turns a non-finite loss into NaN in all gradients, whatever its derivative, and so on all processes."""
        value = loss.detach()
        super().backward(loss, gradient=value * 0 + 1, **kwargs)

    def step(self, **kwargs) -> None:
        """Checks and clips gradients, then updates student, centers and teacher.

        A non-finite step leaves all of them unchanged. Gradients of frozen parameters are set to None, so that neither
        weight decay nor moments change them.
        """
        parameters = [p for group in self.optimizer.param_groups for p in group['params'] if p.grad is not None]
        gradients = [parameter.grad for parameter in parameters]
        if gradients:
            norms = full_norms(gradients)
            self.skipped.copy_(torch.stack(norms).isfinite().all().logical_not())
            if self.max_norm:
                clip_each_tensor(gradients, self.max_norm, norms)
        for parameter in parameters if not self.skips_on_device and self.skipped.item() else self.frozen:
            parameter.grad = None
        self.optimizer.step(**kwargs)
        if self.method is not None:
            self.method.after_step(self.skipped)  # centers, then teacher


def can_skip_on_device(optimizer: Optimizer) -> bool:
    """Whether ``found_inf`` makes the optimizer leave parameters, moments and step counts unchanged.

    Fused SGD also supports ``found_inf``, but its momentum would start from uninitialized memory (torch 2.11).
    """
    return isinstance(optimizer, (Adam, AdamW)) and bool(optimizer.defaults.get('fused'))
