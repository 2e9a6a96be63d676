"""Optimizer wrappers, and the parameter groups of DINO and of fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from mmadclr.config.components import Place
from mmadclr.config.findings import Finding, refusals
from mmadclr.distributed.shards import local_tensors, whole_norms
from mmadclr.models.detector_precision import autocast_features, mmdet_detectors
from mmadclr.models.selfsup.base import SelfDistillation
from mmadclr.precision import PRECISIONS, check_precision, resolve_precision
from mmadclr.registry import OPTIM_WRAPPERS


@torch.no_grad()
def clip_each_tensor(gradients: list[Tensor], max_norm: float, norms: list[Tensor] | None = None) -> None:
    """Scales every gradient *by itself* to at most ``max_norm`` (L2), in place and without waiting for the device.

    As facebookresearch/dino, ``utils.py: clip_gradients``; not the global norm of ``torch.nn.utils.clip_grad_norm_``.
    ``norms``: those of the gradients, where they are known; overwritten.
    """
    if not gradients:
        return
    norms = whole_norms(gradients) if norms is None else norms
    torch._foreach_add_(norms, 1e-6)
    torch._foreach_reciprocal_(norms)
    torch._foreach_mul_(norms, max_norm)
    torch._foreach_clamp_max_(norms, 1.0)
    torch._foreach_mul_(local_tensors(gradients), norms)


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """mmengine's wrapper with bf16 autocast, on the CPU too, and without loss scaling, which bf16 does not need.

    Of mmdet's detectors, alone or inside another model, only ``extract_feat`` (backbone and neck) runs in bf16; the heads
    get fp32 maps and work in fp32, as in a test. A detector that never calls ``extract_feat`` trains in fp32.

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

    @classmethod
    def find_conflicts(cls, place: Place) -> Iterator[Finding]:
        """A precision there is not."""
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
                features = [autocast_features(detector, device, self.dtype) for detector in mmdet_detectors(model)]
                for context in features or [torch.autocast(device, self.dtype)]:
                    stack.enter_context(context)
            yield


@OPTIM_WRAPPERS.register_module()
class SelfDistillationOptimWrapper(AutocastOptimWrapper):
    """The optimizer step of self-distillation, with all that belongs to it: :meth:`step`.

    Beside the student's weights it moves centers and teacher, clips each gradient tensor, and can freeze parameters for a
    while.

    A step whose loss or gradients are not finite is skipped, on all processes alike: parameters, moments and step counts
    keep their values. ``skipped`` () is 1 after such a step and else 0; it stays on the device, and so does the decision
    where the optimizer can take it there (fused Adam and AdamW). A gradient whose norm overflows counts as not finite.

    Attributes:
        method: The model whose centers and teacher move with the step; ``SelfDistillationOptimConstructor`` sets it. None:
            there are none.

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
        self.method: SelfDistillation | None = None
        self.max_norm = max_norm
        self.frozen: list[nn.Parameter] = []
        self.skipped = torch.zeros((), device=optimizer.param_groups[0]['params'][0].device)
        self.skips_on_device = can_skip_on_device(optimizer)
        if self.skips_on_device:
            optimizer.found_inf = self.skipped
        else:
            name = type(optimizer).__name__
            print_log(f'{name} cannot skip a step on the device (fused AdamW can): every step waits for it', 'current')

    def backward(self, loss: Tensor, **kwargs) -> None:
        """A loss that is not finite hands NaN to all gradients, whatever its derivative, and with them to all processes."""
        value = loss.detach()
        super().backward(loss, gradient=value * 0 + 1, **kwargs)

    def step(self, **kwargs) -> None:
        """The whole step of a method: check, clip, student, centers, teacher.

        A step that is not finite leaves all of them as they were. Frozen parameters lose their gradients, so that neither
        decay nor moments touch them.
        """
        parameters = [p for group in self.optimizer.param_groups for p in group['params'] if p.grad is not None]
        gradients = [parameter.grad for parameter in parameters]
        if gradients:
            norms = whole_norms(gradients)
            self.skipped.copy_(torch.stack(norms).isfinite().all().logical_not())
            if self.max_norm:
                clip_each_tensor(gradients, self.max_norm, norms)
        for parameter in parameters if not self.skips_on_device and self.skipped.item() else self.frozen:
            parameter.grad = None
        self.optimizer.step(**kwargs)
        if self.method is not None:
            self.method.after_step(self.skipped)  # centers, then teacher


def can_skip_on_device(optimizer: Optimizer) -> bool:
    """Whether ``found_inf`` of the optimizer makes it leave parameters, moments and step counts alone.

    Fused SGD knows ``found_inf``, too, but its momentum would start from memory that was never written (torch 2.11).
    """
    return isinstance(optimizer, (Adam, AdamW)) and bool(optimizer.defaults.get('fused'))
