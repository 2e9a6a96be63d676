"""Distributed wrappers: their settings, and access to the models inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> Any:
    """The model without its distributed wrapper, if any."""
    return model.module if is_model_wrapper(model) else model


def ddp_settings(cfg: Mapping, overrides: Mapping[str, Any], static: bool) -> dict[str, Any]:
    """Arguments of the data-parallel model wrapper.

    Args:
        cfg: Config of the run.
        overrides: Its ``model_wrapper_cfg``.
        static: Every backward pass has the same graph, so that DDP can plan once.

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
        settings['device_ids'] = None  # must be None for modules on the CPU
    settings |= overrides
    # Not with accumulated batches: the first pass, from which DDP plans, must not run under `no_sync` (torch 2.11 fails with
    # an internal assertion).
    accumulates = (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1) != 1
    settings.setdefault('static_graph', static and not accumulates and not settings['find_unused_parameters'])
    if settings['static_graph'] and accumulates:
        raise ValueError('static_graph=True in model_wrapper_cfg does not support accumulative_counts: remove one of them')
    return settings
