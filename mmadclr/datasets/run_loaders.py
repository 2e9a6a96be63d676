"""Data loaders of a run: checks and completes their settings before they are built, and adjusts them afterwards."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from torch.utils.data import DataLoader

from mmadclr.datasets.listing import listed_alike
from mmadclr.datasets.samplers import STEP_LANES, EpochSampler, ShardSampler


def loader_settings(dataloader: Mapping[str, Any]) -> dict[str, Any]:
    """The checked and completed config of a loader; collective call.

    Raises:
        ValueError: The batch size is below 1, or processes list different images.
    """
    batch_size = dataloader.get('batch_size', 1)
    if batch_size < 1:
        raise ValueError(f'batch_size={batch_size} of a data loader must be at least 1')
    settings = dict(dataloader)
    if settings.get('num_workers', 0) == 0:
        settings['persistent_workers'] = False  # torch rejects it without workers
    sampler = settings.get('sampler')
    if isinstance(sampler, dict) and str(sampler.get('type')).endswith('ShardSampler'):  # its order depends on it
        settings['sampler'] = {'batch_size': batch_size, **sampler}
        check_workers(settings)
    settings['dataset'] = listed_alike(settings.get('dataset'))
    return settings


def separate_generator(loader: DataLoader) -> None:
    """Gives a loader whose samples depend only on their keys its own generator.

    Worker start-up then does not advance the training generator, which a resumed run would do at other times than a run with
    persistent workers.
    """
    if isinstance(loader.sampler, EpochSampler):
        loader.generator = torch.Generator()


def check_workers(dataloader: dict) -> None:
    """Warns if the number of workers of a loader's config does not divide the ``step_lanes`` of its ``ShardSampler``."""
    workers, lanes = dataloader.get('num_workers', 0), dataloader['sampler'].get('step_lanes', STEP_LANES)
    if workers and lanes % workers:
        message = f'ShardSampler: step_lanes={lanes} is not a multiple of {workers} workers, so several read the same shards'
        print_log(message, 'current', logging.WARNING)


def warn_of_scattered_reads(loader) -> None:
    """Warns if images in shards are shuffled without regard to their location."""
    shard_of = getattr(getattr(loader.dataset, 'source', None), 'shard_of', None)
    shuffled = getattr(loader.sampler, 'shuffle', False) and not isinstance(loader.sampler, ShardSampler)
    if shard_of is not None and shuffled:
        name = type(loader.sampler).__name__
        message = f"{name} reads shards in random order; use sampler.type='ShardSampler' to read them almost sequentially"
        print_log(message, 'current', logging.WARNING)
