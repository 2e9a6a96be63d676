"""Times real training steps of a config."""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger

from mmadclr.engine import Runner

WARM, TIMED = 2, 4


def time_steps(cfg: Config) -> float:
    """Median seconds of a training step, including the reading of images, with every parameter in training.

    The model and its files are thrown away.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    with tempfile.TemporaryDirectory() as folder, without_messages():
        cfg = cfg.copy()
        cfg.work_dir, cfg.experiment_name, cfg.log_level = folder, f'timing_{time.time_ns()}', 'WARNING'
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.train_dataloader.persistent_workers = False
        cfg.visualizer = dict(type='Visualizer', vis_backends=[])
        runner = Runner.from_cfg(cfg)
        runner.model.init_weights()
        model = runner.model.to(get_device()).train()
        wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
        loader = runner.build_dataloader(cfg.train_dataloader, seed=0)
        times = [_seconds(model, wrapper, batch) for batch in islice(_timed(loader), WARM + TIMED)]
    return statistics.median(times[WARM:])


@contextmanager
def without_messages() -> Iterator[None]:
    """Drops messages below warnings: what is read several times before training is told once."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _timed(loader):
    """(seconds of reading, batch), again from the start after the last."""
    for _ in cycle([0]):
        before = time.perf_counter()
        for batch in loader:
            yield time.perf_counter() - before, batch
            before = time.perf_counter()


def _seconds(model, wrapper, timed_batch) -> float:
    reading, batch = timed_batch
    before = time.perf_counter()
    losses = model.train_step(batch, wrapper)
    check_finite(losses)  # also waits for the device
    return reading + time.perf_counter() - before


def check_finite(losses: dict[str, torch.Tensor]) -> None:
    """Raises FloatingPointError if a loss is not finite."""
    broken = [name for name, loss in losses.items() if not torch.as_tensor(loss).isfinite().all()]
    if broken:
        raise FloatingPointError(
            f'{", ".join(broken)} is not finite in the first steps, before any training: check that the weights give finite '
            'features (mmadclr knn), and that the images are not constant'
        )
