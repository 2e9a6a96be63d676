"""Trains the configs named on the command line, one after the other, in the processes that torchrun started."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from mmengine.config import Config

from mmadclr.cli.launch import leave_process_group
from mmadclr.distributed.shards import local_tensors
from mmadclr.distributed.wrappers import unwrapped
from mmadclr.engine import Runner


def train(path: str) -> None:
    cfg = Config.fromfile(path)
    cfg.launcher = 'pytorch'
    runner = Runner.from_cfg(cfg)
    runner.train()
    parameters = local_tensors(list(unwrapped(runner.model).parameters()))
    held = sum(parameter.numel() for parameter in parameters)
    (Path(cfg.work_dir) / f'held_by_rank{runner.rank}').write_text(str(held))


if __name__ == '__main__':
    torch.set_num_threads(1)
    for path in sys.argv[1:]:
        train(path)
    leave_process_group()
