"""Wrappers of distributed training: their settings, and looking through them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, whether or not it is wrapped for distributed training."""
    return model.module if is_model_wrapper(model) else model


def ddp_settings(cfg: Mapping, overrides: Mapping[str, Any], static: bool) -> dict[str, Any]:
    """Arguments of the wrapper for data-parallel training, from the config of a run.

    Args:
        cfg: Config of the run.
        overrides: Its ``model_wrapper_cfg``.
        static: Every backward pass is the same, so DDP may plan once for all.

    Raises:
        ValueError: ``static_graph`` with accumulated batches.
    """
    settings = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
        gradient_as_bucket_view=True,
    )
    if not torch.cuda.is_available():
        settings['device_ids'] = None  # modules on the CPU take none
    settings |= overrides
    # The first of accumulated batches, from which DDP makes the plan, must not be under `no_sync` (torch 2.11 fails on an
    # internal assertion).
    accumulates = (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1) != 1
    settings.setdefault('static_graph', static and not accumulates and not settings['find_unused_parameters'])
    if settings['static_graph'] and accumulates:
        raise ValueError('static_graph=True of model_wrapper_cfg does not work with accumulative_counts: remove either')
    return settings
