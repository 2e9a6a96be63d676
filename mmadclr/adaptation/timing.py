"""Times real training steps of a config."""

from __future__ import annotations

import statistics
import tempfile
import time
from functools import partial
from itertools import cycle

import torch
from mmengine import dist
from mmengine.config import Config

from mmadclr.console.libraries import without_messages
from mmadclr.distributed.agreement import together
from mmadclr.engine import Runner

WARM, TIMED = 2, 4


def time_steps(cfg: Config) -> float:
    """Median seconds of a training step, including the reading of images, with every parameter in training.

    The model and its files are thrown away. Collective call: a step of several processes takes as long as the slowest.

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
        runner._init_model_weights()
        model = runner.model.train()
        wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
        batches = _timed(runner.build_dataloader(cfg.train_dataloader, seed=0))
        times = [_seconds(model, wrapper, together(partial(next, batches))) for _ in range(WARM + TIMED)]
    return statistics.median(map(max, zip(*dist.all_gather_object(times[WARM:]), strict=True)))


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
    broken = [name for name, loss in losses.items() if not torch.as_tensor(loss).isfinite().all()]  # waits for the device
    seconds = reading + time.perf_counter() - before
    together(partial(check_finite, broken))
    return seconds


def check_finite(broken: list[str]) -> None:
    """Raises FloatingPointError if losses, by name, are not finite."""
    if broken:
        raise FloatingPointError(
            f'{", ".join(broken)} is not finite in the first steps, before any training: check that the weights give finite '
            'features (mmadclr knn), that the images are not constant, and that a rate of your own is not too high'
        )
