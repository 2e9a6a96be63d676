"""Optimizer wrappers, and the parameter groups of DINO and of fine-tuning."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import ExitStack, contextmanager

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from torch.utils._pytree import tree_map_only

from mmadclr.engine.sharding import local_tensors, whole_norms
from mmadclr.models.losses.chunked_cross_entropy import at_least_fp32
from mmadclr.models.selfsup.base import SelfDistillation
from mmadclr.models.wrappers import unwrapped
from mmadclr.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, root

PRECISIONS = {'fp32': None, 'bf16': torch.bfloat16}


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


def mmdet_detectors(model: nn.Module) -> list[nn.Module]:
    """Those modules of a model, itself among them, that are mmdet's detectors; mmdet is not imported for it."""
    # Nobody can hold a detector without having imported its base class.
    base = getattr(sys.modules.get('mmdet.models.detectors.base'), 'BaseDetector', None)
    return [] if base is None else [module for module in model.modules() if isinstance(module, base)]


@contextmanager
def autocast_features(detector: nn.Module, device: str, dtype: torch.dtype):
    """Meanwhile ``detector.extract_feat`` runs under autocast and returns fp32 maps; the rest is left as it is.

    mmdet makes anchors and proposals in the dtype of a head's outputs, and casts RoIs to that of the maps. In bf16,
    coordinates beyond 512 would be multiples of 4, beyond 1024 of 8, and in training only. Besides, mmcv's compiled
    RoIAlign knows no bf16.
    """
    before = vars(detector).get('extract_feat')
    extract_feat = detector.extract_feat

    def extract_in_low_precision(*args, **kwargs):
        with torch.autocast(device, dtype):
            maps = extract_feat(*args, **kwargs)
        return tree_map_only(Tensor, at_least_fp32, maps)

    detector.extract_feat = extract_in_low_precision
    try:
        yield
    finally:
        if before is None:
            del detector.extract_feat
        else:
            detector.extract_feat = before


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
    """Builds the optimizer over two groups: the first decays (and follows the schedule), the second does not.

    The wrapper learns of the model, whose centers and teacher its step moves.
    """

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
        wrapper = OPTIM_WRAPPERS.build({**cfg, 'optimizer': optimizer})
        if isinstance(model, SelfDistillation) and isinstance(wrapper, SelfDistillationOptimWrapper):
            wrapper.method = model
        return wrapper


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
