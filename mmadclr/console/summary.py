"""Summaries of a run: its settings at the start, and the location of its results at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from torch import nn

from mmadclr.checkpoint.loading import method_name
from mmadclr.checkpoint.run_files import checkpoints
from mmadclr.distributed.wrappers import unwrapped
from mmadclr.precision import PRECISIONS
from mmadclr.registry import SCOPE
from mmadclr.urls import shown

Rows = Iterator[tuple[str, str]]
PRECISION_NAMES = {dtype: name for name, dtype in PRECISIONS.items()}


def training_summary(runner: Any) -> str:
    """Summary at the start of training, after the model is built and the checkpoint is loaded."""
    return as_lines(
        *model_rows(runner),
        ('data', describe_data(runner.train_dataloader.dataset)),
        *length_rows(runner),
        ('device', f'{describe_devices(runner.world_size)}, {describe_precision(runner.optim_wrapper)}'),
        ('rate', describe_rate(runner)),
        *place_rows(runner),
        ('start', describe_start(runner)),
    )


def evaluation_summary(runner: Any, loader: Any) -> str:
    """Summary at the start of the evaluation of a checkpoint."""
    return as_lines(
        *model_rows(runner),
        ('data', describe_data(loader.dataset)),
        ('device', describe_devices(runner.world_size)),
        *place_rows(runner),
        ('weights', describe_start(runner)),
    )


def final_summary(runner: Any, duration: str) -> str:
    """Summary at the end of a run; the printed command can be run unchanged."""
    newest = next(iter(checkpoints(runner.work_dir)), None)
    rows = [('done', f'{number(runner.iter, "iteration")} in {duration}')]
    if newest is not None:
        rows += [('saved', str(newest)), ('next', next_command(runner, newest))]
    return as_lines(*rows[:2], ('log', log_file(runner)), *rows[2:])


def as_lines(*rows: tuple[str, str]) -> str:
    return '\n'.join(f'{name:<9}{text}' for name, text in rows)


def model_rows(runner: Any) -> Rows:
    model = unwrapped(runner.model)
    yield 'method', method_name(model)
    student = getattr(model, 'student', None)
    backbone = getattr(student if isinstance(student, nn.ModuleDict) else model, 'backbone', None)
    if isinstance(backbone, nn.Module):
        yield 'backbone', describe_backbone(backbone, setting(runner.cfg, 'model', 'backbone', 'arch'))


def length_rows(runner: Any) -> Rows:
    """Batch size and number of steps."""
    loop, counts = runner.train_loop, accumulated(runner)
    images = loop.dataloader.batch_sampler.batch_size
    product = f'{images} x {number(runner.world_size, "process", "es")} x {counts} accumulated'
    yield 'batch', f'{number(total_batch(runner), "image")} = {product}'
    steps = '' if counts == 1 else f', {number(-(-runner.max_iters // counts), "optimizer step")}'
    whole = f'{number(runner.max_iters, "iteration")}{steps}'
    by_epoch = hasattr(loop, 'run_epoch')
    epochs = f'{number(loop.max_epochs, "epoch")} x {number(len(loop.dataloader), "iteration")} = ' if by_epoch else ''
    yield 'length', epochs + whole


def place_rows(runner: Any) -> Rows:
    yield 'work dir', str(runner.work_dir)
    yield 'log', log_file(runner)


def number(count: int, unit: str, plural: str = 's') -> str:
    """``1 image``, ``1,200 images``."""
    return f'{count:,} {unit}{"" if count == 1 else plural}'


def total_batch(runner: Any) -> int:
    """Images per optimizer step."""
    return runner.train_dataloader.batch_sampler.batch_size * runner.world_size * accumulated(runner)


def accumulated(runner: Any) -> int:
    return getattr(runner.optim_wrapper, '_accumulative_counts', 1)


def setting(cfg: Any, *keys: str) -> Any:
    """Value of a nested key; None if the config does not have it."""
    for key in keys:
        cfg = cfg.get(key) if isinstance(cfg, (Config, Mapping)) else None
    return cfg


def describe_backbone(backbone: nn.Module, arch: Any) -> str:
    """Class, architecture and size: ``QueryViT vit_small_patch16_224, 21.67 M parameters``."""
    if isinstance(arch, Mapping):
        arch = '(' + ', '.join(f'{name}={value}' for name, value in arch.items() if not name.startswith('_')) + ')'
    millions = sum(parameter.numel() for parameter in backbone.parameters()) / 1e6
    name = ' '.join(map(str, filter(None, (method_name(backbone), arch))))
    return f'{name}, {millions:.2f} M parameters'


def describe_data(dataset: Any) -> str:
    root = getattr(dataset, 'data_root', None)
    where = f'in {shown(root)} ' if root else ''
    return f'{number(len(dataset), "image")} {where}({type(dataset).__name__})'


def describe_devices(world_size: int) -> str:
    device = get_device()
    return f'{world_size} x {torch.cuda.get_device_name() if device == "cuda" else device}'


def describe_precision(optim_wrapper: Any) -> str:
    dtype = getattr(optim_wrapper, 'dtype', getattr(optim_wrapper, 'cast_dtype', None))
    return PRECISION_NAMES.get(dtype, str(dtype))


def describe_rate(runner: Any) -> str:
    """The peak learning rate, and how it is computed."""
    rate = setting(runner.cfg, 'optim_wrapper', 'optimizer', 'lr')
    scale = runner.auto_scale_lr or {}
    if rate is None:
        return 'several'
    if not scale.get('enable', False):
        return f'{rate:g}, independent of the batch size'
    base = scale['base_batch_size']
    return f'{rate * total_batch(runner) / base:g} = {rate:g} x {total_batch(runner)} / {base} images'


def describe_start(runner: Any) -> str:
    if runner._load_from is not None and runner._has_loaded:
        place = f', resumed after {number(runner.iter, "iteration")}' if runner._resume else ''
        return f'{runner._load_from}{place}'
    backbone = setting(runner.cfg, 'model', 'backbone', 'init_cfg', 'checkpoint')
    return f'backbone of {backbone}' if backbone else 'random weights'


def log_file(runner: Any) -> str:
    return str(runner.logger.log_file)


def next_command(runner: Any, checkpoint: Path) -> str:
    if runner.default_scope.scope_name == SCOPE:
        return f'mmadclr export {checkpoint} {Path(runner.work_dir, "timm")} --format timm'
    return f'mmadclr test {os.path.relpath(runner.cfg.filename or "CONFIG")} {checkpoint}'
