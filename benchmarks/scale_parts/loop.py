"""What a step costs beside model and data (hooks, messages, the log), early and late in a run."""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import MethodType

import numpy as np
import torch
from common import Row
from mmengine.config import Config

from mmadclr.checkpoint.scalar_history import BoundedHistory
from mmadclr.engine import Runner

CONFIG = Path(__file__).resolve().parents[2] / 'configs/demo/adclr_vittiny_shapes.py'
LATE = 1_000_000
IMAGES = 256
TARGET = '<= 0.6'


class Endless:
    """A loader that gives one batch again and again: reading is not what is measured."""

    def __init__(self, loader: torch.utils.data.DataLoader, length: int) -> None:
        self.loader, self.length, self.batch = loader, length, next(iter(loader))

    def __len__(self) -> int:
        return self.length

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)

    def __iter__(self):
        return (self.batch for _ in range(self.length))


class Enough(Exception):
    """All steps are measured."""


def runner_of(folder: Path, steps: int) -> Runner:
    """The demo's run with all its hooks, long enough for so many steps."""
    cfg = Config.fromfile(CONFIG)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.update(data_root=str(folder / 'shapes'), num_train=IMAGES, num_val=10)
        loader.update(num_workers=0, persistent_workers=False)
    cfg.log_level = 'ERROR'
    cfg.update(
        work_dir=str(folder / 'work'), experiment_name=folder.name, val_cfg=None, val_dataloader=None, val_evaluator=None
    )
    cfg.train_cfg = dict(type=cfg.train_cfg.type, max_epochs=-(-steps * cfg.train_dataloader.batch_size // IMAGES) + 1)
    return Runner.from_cfg(cfg)


def milliseconds(steps: int, first: int) -> float:
    """Processor time of a step of the loop, from iteration ``first`` on, of which ``steps`` are gone through."""
    with tempfile.TemporaryDirectory() as name:
        runner = runner_of(Path(name), first + steps)
        times: list[float] = []
        losses = {name: torch.tensor(1.0) for name in ('loss', 'loss_cls', 'loss_query', 'entropy_cls', 'entropy_query')}

        def run_iter(loop, index: int, batch: dict) -> None:
            if len(times) == steps + 1:
                raise Enough
            times.append(time.process_time())
            loop.runner.call_hook('before_train_iter', batch_idx=index, data_batch=batch)
            loop.runner.call_hook('after_train_iter', batch_idx=index, data_batch=batch, outputs=dict(losses))
            loop._iter += 1

        def start(loop) -> None:
            loop.dataloader, loop.run_iter = Endless(loop.dataloader, 10**7), MethodType(run_iter, loop)
            loop._iter, loop._max_iters = first, 10**8
            for name in [*losses, 'time', 'data_time', 'lr', 'base_lr', 'weight_decay', 'teacher_momentum', 'teacher_temp']:
                runner.message_hub.log_scalars[f'train/{name}'] = BoundedHistory(np.ones(first), np.ones(first))

        with suppress(Enough):
            train(runner, start)
        return (times[-1] - times[0]) / steps * 1e3


def train(runner: Runner, start) -> None:
    """``runner.train()``, with ``start`` called on its loop before the first epoch."""
    loop = runner.build_train_loop(runner._train_loop)
    whole = loop.run_epoch

    def run_epoch() -> None:
        start(loop)
        whole()

    loop.run_epoch = run_epoch
    runner._train_loop = loop
    runner.train()


def rows(scale: float = 1.0) -> list[Row]:
    steps = max(20, int(2000 * scale))
    return [
        Row(f'a step beside model and data, from iteration {first:,}', 'ms', milliseconds(steps, first), target=TARGET)
        for first in (0, int(LATE * scale))
    ]
