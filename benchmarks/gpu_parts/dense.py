"""Training steps of Mask R-CNN and UperNet over ViT-S/16, on random images of the published sizes.

The configs are those of the benchmarks; backbone and neck run in bf16, the heads of detectors in fp32.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, DefaultScope
from torch import Tensor, nn

import mmadclr.ops  # noqa: F401  stands in for compiled operations, so it comes before mmdet and mmseg
from gpu_parts.context import Context, number, seconds_of, table, wait_for

NEEDS_GPU = True
TITLE = 'Detection and segmentation'
CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
STEPS = 10


def run(context: Context) -> None:
    if context.smoke:
        context.measure('Mask R-CNN', partial(detection, context, 'benchmarks/demo/mask-rcnn_shapes.py', 1, (64, 96)))
        context.measure('UperNet', partial(segmentation, context, 'benchmarks/demo/upernet_shapes.py', 2, 64))
        return
    mask_rcnn, upernet = 'benchmarks/coco/mask-rcnn_vits16_fpn_1x.py', 'benchmarks/ade20k/upernet_vits16_512_160k.py'
    for batch in (2, 8):
        name = f'Mask R-CNN, ViT-S/16, {batch} images of 800 x 1333'
        context.measure(name, partial(detection, context, mask_rcnn, batch, (800, 1333)), needs=8)
    for batch in (4, 16):
        name = f'UperNet, ViT-S/16, {batch} images of 512 x 512'
        context.measure(name, partial(segmentation, context, upernet, batch, 512), needs=8)


def detection(context: Context, config: str, batch: int, size: tuple[int, int]) -> dict[str, Any]:
    from mmdet.registry import MODELS
    from mmdet.testing import demo_mm_inputs

    DefaultScope.get_instance(f'gpu_{id(config)}', scope_name='mmdet')
    cfg = Config.fromfile(CONFIGS / config)
    classes = cfg.model.roi_head.bbox_head.num_classes
    model = build(cfg, MODELS.build)
    data = demo_mm_inputs(batch, [[3, *size]] * batch, num_items=[10] * batch, num_classes=classes, with_mask=True)
    return train(context, cfg, model, data, batch)


def segmentation(context: Context, config: str, batch: int, side: int) -> dict[str, Any]:
    from mmengine.structures import PixelData
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

    DefaultScope.get_instance(f'gpu_{id(config)}', scope_name='mmseg')
    cfg = Config.fromfile(CONFIGS / config)
    classes = cfg.model.decode_head.num_classes
    model = build(cfg, MODELS.build)
    generator = torch.Generator().manual_seed(0)
    images = list(torch.randint(0, 256, (batch, 3, side, side), generator=generator, dtype=torch.uint8))
    labels = torch.randint(0, classes, (batch, 1, side, side), generator=generator)
    info = dict(img_shape=(side, side), ori_shape=(side, side), pad_shape=(side, side))
    samples = [SegDataSample(metainfo=info, gt_sem_seg=PixelData(data=label)) for label in labels]
    return train(context, cfg, model, {'inputs': images, 'data_samples': samples}, batch)


def build(cfg: Config, construct: Callable[[dict], nn.Module]) -> nn.Module:
    """The model with random weights; norms over one process."""
    if cfg.model.backbone.get('init_cfg'):
        cfg.model.backbone.init_cfg.checkpoint = None
    torch.manual_seed(0)
    return revert_sync_batchnorm(construct(cfg.model))


def train(context: Context, cfg: Config, model: nn.Module, data: dict[str, list[Tensor]], batch: int) -> dict[str, Any]:
    """Images/s and peak memory of whole steps, the preprocessor's included."""
    model = model.to(context.device).train()
    settings = {**cfg.optim_wrapper, 'precision': context.precision}
    constructor = settings.pop('constructor', 'DefaultOptimWrapperConstructor')
    paramwise = settings.pop('paramwise_cfg', None)
    construct = OPTIM_WRAPPER_CONSTRUCTORS.build(dict(type=constructor, optim_wrapper_cfg=settings, paramwise_cfg=paramwise))
    wrapper = construct(model)
    for _ in range(1 if context.smoke else 3):
        losses = model.train_step(data, wrapper)
    peak = peak_gib(partial(model.train_step, data, wrapper), context.device)
    count = 2 if context.smoke else STEPS
    times = [seconds_of(lambda: model.train_step(data, wrapper), context.device) for _ in range(count)]
    speeds = sorted(batch / seconds for seconds in times)
    return {
        'images_per_s': statistics.median(speeds),
        'spread': [speeds[0], speeds[-1]],
        'peak_gib': peak,
        'loss': losses['loss'].item(),
        'precision': context.precision,
    }


def peak_gib(step: Callable[[], object], device: str) -> float | None:
    """All memory of the process at most, while it steps."""
    if device != 'cuda':
        return None
    torch.cuda.reset_peak_memory_stats()
    step()
    wait_for(device)
    return torch.cuda.max_memory_allocated() / 2**30


def section(rows: dict[str, dict[str, Any]]) -> list[str]:
    cells = []
    for key, row in rows.items():
        low, high = row['spread']
        speed = f'{number(row["images_per_s"])} ({number(low)} to {number(high)})'
        cells.append([key, speed, number(row['peak_gib']), row['precision']])
    return table(['', 'images/s in training', 'peak GiB', 'precision'], cells)
