"""Arguments that several commands share. This module imports nothing that is slow to import."""

from __future__ import annotations

import ast
import os
from argparse import SUPPRESS, Action, ArgumentParser, ArgumentTypeError, Namespace
from typing import Any

from mmadclr.cli.argument_types import positive
from mmadclr.cli.choices import WHICH
from mmadclr.compare.dense_tasks import DENSE_TASKS


class Overrides(Action):
    """``KEY=VALUE`` arguments, see :class:`mmadclr.config.overrides.Overrides`, which is imported only if needed."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None) -> None:
        from mmadclr.config.overrides import Overrides as Collect

        Collect(self.option_strings, self.dest)(parser, namespace, values, option_string)


def add_override_argument(parser: ArgumentParser, option: str, help: str) -> None:
    """Adds an option that takes ``KEY=VALUE`` arguments."""
    parser.add_argument(option, nargs='+', action=Overrides, default={}, metavar='KEY=VALUE', help=help)


def add_config_arguments(parser: ArgumentParser, default_config: str | None = None) -> None:
    """``config``, ``--data``, ``--work-dir`` and ``--cfg-options``; no ``--data`` if there is a default config."""
    parser.add_argument(
        'config',
        nargs='?' if default_config else None,
        default=default_config,
        metavar='CONFIG',
        help='file, or name of a config of mmadclr, for example adclr/vits16_folder (see mmadclr list-configs)',
    )
    if default_config is None:
        parser.add_argument('--data', metavar='DIR', help='folder of the data sets of the config; sets data_root=DIR')
    parser.add_argument(
        '--work-dir', metavar='DIR', help='folder for logs and checkpoints (default: work_dirs/<config name>)'
    )
    add_override_argument(parser, '--cfg-options', 'override keys of the config, for example train_dataloader.batch_size=64')
    parser.add_argument('--verbose', action='store_true', help='also print everything that is written to the log file')


def add_launcher_arguments(parser: ArgumentParser) -> None:
    """``--gpus``, ``--launcher`` and the local rank, which launchers pass."""
    parser.add_argument(
        '--gpus',
        type=positive,
        metavar='N',
        help='start N processes, one per GPU (or on the CPU); for several machines, set NNODES, NODE_RANK and MASTER_ADDR',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='program that started the processes'
    )
    # Older releases of torchrun pass this argument; newer ones only set a variable.
    local_rank = int(os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', 0))
    parser.add_argument('--local_rank', '--local-rank', type=int, default=local_rank, help=SUPPRESS)


def add_weights_arguments(parser: ArgumentParser) -> None:
    """``--which``, ``--prefix``, ``--num-heads`` and ``--fact``, for all commands that read weights."""
    parser.add_argument(
        '--which',
        choices=WHICH,
        default='teacher',
        help='network to read from a file with two; averages (EMA, momentum, target) count as teacher',
    )
    parser.add_argument(
        '--prefix', help='prefix of the parameter names of the backbone in the file, if detection fails or is wrong'
    )
    parser.add_argument(
        '--num-heads',
        type=positive,
        metavar='N',
        help='number of attention heads, if the file does not contain it (default: 64 channels per head)',
    )
    parser.add_argument(
        '--fact',
        action='append',
        default=[],
        type=fact,
        metavar='KEY=VALUE',
        help='what no tensor of the file shows, such as norm_eps=1e-6 or pos_embed_resize=dino; may be repeated',
    )


def fact(text: str) -> tuple[str, Any]:
    """A key and its value, a Python literal or a text."""
    key, sign, value = text.partition('=')
    if not key or not sign:
        raise ArgumentTypeError(f'{text!r} is not KEY=VALUE')
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def add_dense_arguments(parser: ArgumentParser) -> None:
    """``--detection-options`` and ``--segmentation-options``."""
    for part in DENSE_TASKS:
        add_override_argument(parser, f'--{part}-options', f'override keys of the {part} config')
