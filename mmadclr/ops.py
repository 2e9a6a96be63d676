"""Replacement for ``mmcv._ext``, mmcv's compiled operations, based on torchvision: detection without a compiler.

mmcv from PyPI has no compiled operations, so ``import mmdet.models`` fails, although Mask R-CNN and Cascade Mask R-CNN
only call two of them: non-maximum suppression and RoIAlign. torchvision has both. Importing this module
(``custom_imports`` of our detection and segmentation configs; the tools) installs them where mmcv looks. If mmcv was
built with its operations, those are used and nothing is replaced. The module also makes mmdet number the categories of
COCO files by the names in the class list (:mod:`mmadclr.datasets.coco_labels`), once mmdet is imported.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from types import ModuleType

import torch
import torchvision
from torch import Tensor

from mmadclr.datasets.coco_labels import by_name

EXTENSION = 'mmcv._ext'
AVERAGE = 1  # mmcv's constant for average pooling in RoIAlign


class UnsupportedOpError(NotImplementedError):
    """An mmcv operation without a counterpart in torchvision."""

    def __init__(self, name: str, detail: str = '') -> None:
        super().__init__(
            f'mmcv.ops.{name}{detail} needs the compiled operations of mmcv, which are not installed. Build them with '
            "'MMCV_WITH_OPS=1 pip install --no-cache-dir --no-build-isolation --no-binary onedl-mmcv onedl-mmcv' (needs a "
            'compiler, and up to an hour), or use a model without this operation.'
        )


def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes (N, 4) to keep, by descending score (N,).

    Raises:
        UnsupportedOpError: ``offset=1``, boxes with inclusive corners, which torchvision does not support.
    """
    if offset != 0:
        raise UnsupportedOpError('nms', f'(offset={offset})')
    return torchvision.ops.nms(_at_least_fp32(bboxes), _at_least_fp32(scores), iou_threshold)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Writes the average of ``input`` (B, C, H, W) over every bin of ``rois`` (K, 5) to ``output`` (K, C, h, w)."""
    _refuse_max_pooling(pool_mode)
    input, rois = _at_least_fp32(input), _at_least_fp32(rois)
    size = (aligned_height, aligned_width)
    output.copy_(torch.ops.torchvision.roi_align(input, rois, spatial_scale, *size, sampling_ratio, aligned))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Writes the gradient of :func:`roi_align_forward` to ``grad_input`` (B, C, H, W)."""
    _refuse_max_pooling(pool_mode)
    grad_output, rois = _at_least_fp32(grad_output), _at_least_fp32(rois)
    size = (aligned_height, aligned_width, *grad_input.shape)
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(grad_output, rois, spatial_scale, *size, sampling_ratio, aligned)
    )


def _at_least_fp32(tensor: Tensor) -> Tensor:
    """Undoes autocast: torchvision has no bfloat16 kernels.

    This does not restore coordinates rounded earlier; ``AutocastOptimWrapper`` keeps detection heads in fp32 for that
    reason.
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _refuse_max_pooling(pool_mode: int) -> None:
    if pool_mode != AVERAGE:
        raise UnsupportedOpError('roi_align', "(pool_mode='max')")


class _StandIn(ModuleType):
    """The module that mmcv imports: every name exists, and unsupported operations raise when called."""

    def __getattr__(self, name: str):
        if name.startswith('__'):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise UnsupportedOpError(name)

        return missing


def compiled_extension() -> importlib.machinery.ModuleSpec | None:
    """Location of the compiled operations, without importing mmcv; None if mmcv or its extension is not installed."""
    package = importlib.util.find_spec('mmcv')
    if package is None:
        return None
    return importlib.machinery.PathFinder.find_spec(EXTENSION, package.submodule_search_locations)


def install() -> bool:
    """Installs the replacement where mmcv looks for its extension, unless mmcv has one; returns whether it is installed."""
    if isinstance(sys.modules.get(EXTENSION), _StandIn):
        return True
    if EXTENSION in sys.modules or compiled_extension() is not None:
        return False
    module = _StandIn(EXTENSION, __doc__)
    module.__spec__ = importlib.machinery.ModuleSpec(EXTENSION, loader=None)
    for function in (nms, roi_align_forward, roi_align_backward):
        setattr(module, function.__name__, function)
    sys.modules[EXTENSION] = module
    return True


install()
by_name()
