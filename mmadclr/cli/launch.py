"""From a config file and the command line to a runner."""

from __future__ import annotations

import functools
import gc
import os
import signal
import sys
import traceback
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Callable

import torch

from mmadclr.config.overrides import Overrides, Switch
from mmadclr.datasets.image_dataset import UnreadableImageError
from mmadclr.datasets.loader_workers import GROUP_SIGNALS
from mmadclr.datasets.remote import StoreError
from mmadclr.ops import UnsupportedOpError  # the import puts the stand-in in place before any config imports mmdet
from mmadclr.reliability.loader_guard import WorkerDiedError
from mmadclr.reliability.stop_signals import PreemptedError

BAD_INPUT = (
    *(ValueError, FileNotFoundError, FileExistsError, FloatingPointError),
    *(UnreadableImageError, UnsupportedOpError, WorkerDiedError),
)
INTERRUPTED = 128 + signal.SIGINT


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
        action=Overrides,
        default={},
        metavar='KEY=VALUE',
        help='override keys of the config, for example train_dataloader.batch_size=64',
    )
    parser.add_argument(
        '--verbose',
        action=Switch,
        const='verbose=True',
        dest='cfg_options',
        default=SUPPRESS,
        help='print all that goes to the log file, too: environment, config, hooks, every line of the log',
    )


def add_launcher_arguments(parser: ArgumentParser) -> None:
    """Adds ``--launcher`` and the rank that launchers pass."""
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torchrun of older releases passes it; newer ones set the variable only.
    local_rank = int(os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', 0))
    parser.add_argument('--local_rank', '--local-rank', type=int, default=local_rank)


def report_bad_input(main: Callable[[], None]) -> Callable[[], None]:
    """Ends a tool with the message of a mistake in its input instead of a traceback through the libraries.

    Only errors raised on purpose by this package count; any other keeps its traceback. Ctrl-C ends it with one line and
    status 130, as shells say it. A run that has stopped with its checkpoint keeps its status, whatever comes on its way out.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        for stream in (sys.stdout, sys.stderr):  # names of files may be no Unicode, or none of the terminal's encoding
            if hasattr(stream, 'reconfigure'):
                stream.reconfigure(errors='backslashreplace')
        try:
            main()
        except BAD_INPUT as error:
            if not _is_ours(error):
                raise
            sys.exit(f'error: {_message(error)}')
        except PreemptedError:
            for number in GROUP_SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # srun ends all tasks with SIGTERM as soon as one has ended
            raise
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one does not wait for what is still to be put away
            print('error: interrupted (Ctrl-C)', file=sys.stderr)
            sys.exit(INTERRUPTED)
        leave_process_group()

    return wrapped


def leave_process_group() -> None:
    """Ends communication with the other processes, at the end of a tool; without it, threads of gloo may abort the exit.

    Not after an error: the others might be waiting for this process.
    """
    if torch.distributed.is_initialized():
        gc.collect()  # sharded models and their runners refer to each other, and to groups of processes
        torch.distributed.destroy_process_group()


def _message(error: BaseException) -> str:
    """The message as it was raised: an error from a worker of the loader arrives as a text of its traceback."""
    text = str(error)
    return text.splitlines()[-1].partition(': ')[2] if text.startswith('Caught') else text


def _is_ours(error: BaseException) -> bool:
    if isinstance(error, (UnreadableImageError, StoreError)):
        return True  # no one else raises them, and from a worker of the loader they arrive by way of torch
    *_, last = traceback.walk_tb(error.__traceback__)
    return last[0].f_globals.get('__name__', '').startswith('mmadclr.')
