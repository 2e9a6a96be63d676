"""From a config file and the command line to a runner."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config, DictAction

from mmadclr.datasets.image_dataset import UnreadableImageError
from mmadclr.engine.config_check import check_config


def add_config_arguments(parser: ArgumentParser, default_config: str | None = None) -> None:
    """Adds ``config`` (positional; optional where there is a default), ``--work-dir`` and ``--cfg-options``."""
    parser.add_argument(
        'config',
        nargs='?' if default_config else None,
        default=default_config,
        help='config file, for example configs/adclr/vits16_in1k.py',
    )
    parser.add_argument('--work-dir', help='folder of logs and checkpoints; work_dirs/<config name> by default')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='override keys of the config, for example train_dataloader.batch_size=64',
    )


def add_launcher_arguments(parser: ArgumentParser) -> None:
    """Adds ``--launcher`` and the rank that launchers pass."""
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torchrun of older releases passes it; newer ones set the variable only.
    local_rank = int(os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', 0))
    parser.add_argument('--local_rank', '--local-rank', type=int, default=local_rank)


def load_config(args: Namespace) -> Config:
    """Config with the overrides of the command line, checked.

    Raises:
        FileNotFoundError: There is no such config.
        ConfigError: A key would never be read.
    """
    if not Path(args.config).is_file():
        raise FileNotFoundError(f'config {args.config} does not exist')
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    check_config(cfg, args.cfg_options)
    if 'launcher' in args:
        cfg.launcher = args.launcher
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    return cfg


def report_bad_input(main: Callable[[], None]) -> Callable[[], None]:
    """Ends a tool with the message of a mistake in its input instead of a traceback through the libraries.

    Only errors raised on purpose by this package count; any other keeps its traceback.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
        except (ValueError, FileNotFoundError, FileExistsError, UnreadableImageError, FloatingPointError) as error:
            if not _is_ours(error):
                raise
            sys.exit(f'error: {_message(error)}')

    return wrapped


def _message(error: BaseException) -> str:
    """The message as it was raised: an error from a worker of the loader arrives as a text of its traceback."""
    text = str(error)
    return text.splitlines()[-1].partition(': ')[2] if text.startswith('Caught') else text


def _is_ours(error: BaseException) -> bool:
    if isinstance(error, UnreadableImageError):
        return True  # no one else raises it, and from a worker of the loader it arrives by way of torch
    *_, last = traceback.walk_tb(error.__traceback__)
    return last[0].f_globals.get('__name__', '').startswith('mmadclr.')
