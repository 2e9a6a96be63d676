"""Trains the configs named on the command line, in the processes that torchrun started, with NaN in images of the second."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from mmengine.config import Config
from poison import NaNImages

from mmadclr.cli.launch import leave_process_group
from mmadclr.engine import Runner


def train(path: str) -> None:
    """A run that ends with a FloatingPointError leaves its text in ``error_of_rank<N>``."""
    cfg = Config.fromfile(path)
    cfg.launcher = 'pytorch'
    runner = Runner.from_cfg(cfg)
    runner.register_hook(NaNImages(cfg.broken_iterations, rank=1), priority='LOWEST')
    try:
        runner.train()
    except FloatingPointError as error:
        (Path(cfg.work_dir) / f'error_of_rank{runner.rank}').write_text(str(error))


if __name__ == '__main__':
    torch.set_num_threads(1)
    for path in sys.argv[1:]:
        train(path)
    leave_process_group()
