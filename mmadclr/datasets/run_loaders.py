"""Data loaders of a run: their settings, checked and completed, and what is set on them once they are built."""

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
    """The config of a loader, ready to be built; to be called on all processes.

    Raises:
        ValueError: There is no image in a batch, or processes list different images.
    """
    batch_size = dataloader.get('batch_size', 1)
    if batch_size < 1:
        raise ValueError(f'batch_size={batch_size}: a data loader needs batches of 1 or more images')
    settings = dict(dataloader)
    if settings.get('num_workers', 0) == 0:
        settings['persistent_workers'] = False  # without workers there are none to keep
    sampler = settings.get('sampler')
    if isinstance(sampler, dict) and str(sampler.get('type')).endswith('ShardSampler'):  # its order depends on the batch
        settings['sampler'] = {'batch_size': batch_size, **sampler}
        check_workers(settings)
    settings['dataset'] = listed_alike(settings.get('dataset'))
    return settings


def separate_generator(loader: DataLoader) -> None:
    """Gives a loader whose samples depend on their keys alone a generator of its own.

    Starting workers then draws nothing from that of training, which a resumed run does at other times than one that keeps
    its workers.
    """
    if isinstance(loader.sampler, EpochSampler):
        loader.generator = torch.Generator()


def check_workers(dataloader: dict) -> None:
    """Says so if the workers of a loader's config do not divide the ``step_lanes`` of its ``ShardSampler``."""
    workers, lanes = dataloader.get('num_workers', 0), dataloader['sampler'].get('step_lanes', STEP_LANES)
    if workers and lanes % workers:
        message = f'ShardSampler: step_lanes={lanes} is no multiple of {workers} workers, so several read the same shards'
        print_log(message, 'current', logging.WARNING)


def warn_of_scattered_reads(loader) -> None:
    """Says so if images of shards are shuffled without regard to where they lie."""
    shard_of = getattr(getattr(loader.dataset, 'source', None), 'shard_of', None)
    shuffled = getattr(loader.sampler, 'shuffle', False) and not isinstance(loader.sampler, ShardSampler)
    if shard_of is not None and shuffled:
        name = type(loader.sampler).__name__
        message = f"{name} reads all over the shards; sampler.type='ShardSampler' reads them nearly in order"
        print_log(message, 'current', logging.WARNING)
