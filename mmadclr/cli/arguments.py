"""Arguments that several commands have, with one meaning in all of them; nothing that takes time is imported here."""

from __future__ import annotations

import os
from argparse import SUPPRESS, Action, ArgumentParser, Namespace
from typing import Any

from mmadclr.cli.argument_types import positive
from mmadclr.cli.choices import WHICH
from mmadclr.compare.dense_tasks import DENSE_TASKS


class Overrides(Action):
    """``KEY=VALUE`` arguments, see :class:`mmadclr.config.overrides.Overrides`, which is imported when there are some."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None) -> None:
        from mmadclr.config.overrides import Overrides as Collect

        Collect(self.option_strings, self.dest)(parser, namespace, values, option_string)


def add_override_argument(parser: ArgumentParser, option: str, help: str) -> None:
    """An option of ``KEY=VALUE`` arguments."""
    parser.add_argument(option, nargs='+', action=Overrides, default={}, metavar='KEY=VALUE', help=help)


def add_config_arguments(parser: ArgumentParser, default_config: str | None = None) -> None:
    """``config``, ``--data``, ``--work-dir`` and ``--cfg-options``; a default one has its data."""
    parser.add_argument(
        'config',
        nargs='?' if default_config else None,
        default=default_config,
        metavar='CONFIG',
        help='file, or name of a config that comes with mmadclr, for example adclr/vits16_folder (mmadclr list-configs)',
    )
    if default_config is None:
        parser.add_argument('--data', metavar='DIR', help='folder of all data sets of the config, as data_root=DIR')
    parser.add_argument(
        '--work-dir', metavar='DIR', help='folder of logs and checkpoints; work_dirs/<config name> by default'
    )
    add_override_argument(parser, '--cfg-options', 'override keys of the config, for example train_dataloader.batch_size=64')
    parser.add_argument('--verbose', action='store_true', help='print all that goes to the log file, too')


def add_launcher_arguments(parser: ArgumentParser) -> None:
    """``--gpus``, ``--launcher`` and the rank that launchers pass."""
    parser.add_argument(
        '--gpus',
        type=positive,
        metavar='N',
        help='start N processes, one a GPU (without a GPU: on the CPU); several machines by NNODES, NODE_RANK, MASTER_ADDR',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='what has started the processes'
    )
    # torchrun of older releases passes it; newer ones set the variable only.
    local_rank = int(os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', 0))
    parser.add_argument('--local_rank', '--local-rank', type=int, default=local_rank, help=SUPPRESS)


def add_weights_arguments(parser: ArgumentParser) -> None:
    """``--which``, ``--prefix`` and ``--num-heads``, of every command that reads weights."""
    parser.add_argument(
        '--which',
        choices=WHICH,
        default='teacher',
        help='network of a file with two; averages (EMA, momentum, target) are teachers',
    )
    parser.add_argument(
        '--prefix', help='what precedes the names of the backbone in the file, where it is not found or not the right one'
    )
    parser.add_argument(
        '--num-heads',
        type=positive,
        metavar='N',
        help='attention heads, if the file does not tell, and not 64 channels each',
    )


def add_dense_arguments(parser: ArgumentParser) -> None:
    """``--detection-options`` and ``--segmentation-options``."""
    for part in DENSE_TASKS:
        add_override_argument(parser, f'--{part}-options', f'override keys of the config of {part}')
