"""Trains the configs named on the command line in the processes that torchrun started, and writes down what each drew.

``<work_dir>/rank<N>.json``: the images of every epoch, shares of Mixup and CutMix, dropped paths, sums of the weights.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from mmadclr.cli.launch import leave_process_group
from mmadclr.distributed.wrappers import unwrapped
from mmadclr.engine import Runner
from mmadclr.models.backbones.query_block import DropPath

beta, factors = np.random.beta, DropPath.factors


class Diary(Hook):
    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.images, self.shares, self.paths, self.weights = {}, [], [], []
        np.random.beta = self.beta
        DropPath.factors = lambda path, count: self.keep(factors(path, count))

    def beta(self, *args) -> float:
        self.shares.append(beta(*args))
        return self.shares[-1]

    def keep(self, drawn: torch.Tensor) -> torch.Tensor:
        self.paths.append(drawn.flatten().tolist())
        return drawn

    def before_train(self, runner) -> None:
        self.weigh(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        names = [Path(sample.img_path).name for sample in data_batch['data_samples']]
        self.images.setdefault(runner.epoch, []).extend(names)
        self.weigh(runner)

    def weigh(self, runner) -> None:
        parameters = unwrapped(runner.model).parameters()
        self.weights.append(sum(parameter.detach().double().abs().sum().item() for parameter in parameters))

    def write(self, runner) -> None:
        content = dict(images=self.images, shares=self.shares, paths=self.paths, weights=self.weights)
        (Path(runner.work_dir) / f'rank{runner.rank}.json').write_text(json.dumps(content))


def train(path: str) -> None:
    cfg = Config.fromfile(path)
    cfg.launcher = 'pytorch'
    runner, diary = Runner.from_cfg(cfg), Diary()
    runner.register_hook(diary)
    runner.train()
    diary.write(runner)


if __name__ == '__main__':
    torch.set_num_threads(1)
    for path in sys.argv[1:]:
        train(path)
    leave_process_group()
