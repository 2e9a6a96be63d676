"""From a config file and the command line to a runner."""

from __future__ import annotations

import functools
import gc
import os
import signal
import sys
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmadclr.datasets.image_dataset import UnreadableImageError
from mmadclr.datasets.loader_workers import GROUP_SIGNALS
from mmadclr.datasets.names import printable
from mmadclr.datasets.remote import StoreError, has_secrets, shown
from mmadclr.engine.agreement import PreemptedError
from mmadclr.engine.config_check import ConfigError, check_config
from mmadclr.engine.loader_guard import WorkerDiedError
from mmadclr.engine.overrides import Overrides, merge
from mmadclr.ops import UnsupportedOpError  # the import puts the stand-in in place before any config imports mmdet

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


def add_launcher_arguments(parser: ArgumentParser) -> None:
    """Adds ``--launcher`` and the rank that launchers pass."""
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torchrun of older releases passes it; newer ones set the variable only.
    local_rank = int(os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', 0))
    parser.add_argument('--local_rank', '--local-rank', type=int, default=local_rank)


def load_config(args: Namespace) -> Config:
    """Config with the overrides of the command line, checked.

    Two overrides are short for several: ``pretrained=PATH`` for the checkpoint of the backbone's ``init_cfg``, and
    ``data_root=DIR`` for the folder of all data sets and of the annotation files evaluators read.

    Raises:
        FileNotFoundError: There is no such config.
        ConfigError: A key would never be read, or an override fits no place of the config.
    """
    if not Path(args.config).is_file():
        raise FileNotFoundError(f'config {args.config} does not exist')
    cfg = Config.fromfile(args.config)
    overrides = spell_out(cfg, args.cfg_options)
    merge(cfg, overrides)
    check_config(cfg, overrides)
    if 'launcher' in args:
        cfg.launcher = args.launcher
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    check_unicode(cfg)
    check_secrets(cfg)
    return cfg


def check_unicode(cfg: Config) -> None:
    """Raises a ConfigError if a value holds bytes that are no Unicode: the config goes into logs and checkpoints."""
    for path, value in _leaves(cfg.to_dict()):
        if isinstance(value, str) and any('\ud800' <= character <= '\udfff' for character in value):
            raise ConfigError(
                f'{path}: {printable(value)} is no valid Unicode, as text files that hold the config have to be; give the '
                'folder or file another name, or a link with one (names of images below a folder may be any)'
            )


def check_secrets(cfg: Config) -> None:
    """Raises a ConfigError if a URL holds a password or a signature: the config goes into logs and checkpoints."""
    for path, value in _leaves(cfg.to_dict()):
        if isinstance(value, str) and path.endswith('data_root') and has_secrets(value):
            raise ConfigError(
                f'{path}: {shown(value)} is given with a user, a password or a query, which would be in every log and '
                'checkpoint; put that into an environment variable and write its name ($NAME) in its place, or leave it to '
                "~/.netrc or fsspec's configuration"
            )


def spell_out(cfg: Config, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides by full key, with ``pretrained`` and ``data_root`` replaced by what they stand for.

    Raises:
        ConfigError: The data sets of the config lie in different folders, so that one cannot stand for all.
    """
    full = dict(overrides)
    if 'pretrained' in full:
        full['model.backbone.init_cfg.checkpoint'] = full.pop('pretrained')
    if 'data_root' in full:
        full = {**_data_root_overrides(cfg, str(full.pop('data_root'))), **full}
    return full


def _data_root_overrides(cfg: Config, folder: str) -> dict[str, str]:
    """Every ``data_root`` of a component of the config, and every annotation file of an evaluator below it."""
    places = {path: value for path, value in _leaves(cfg.to_dict()) if path.endswith('.data_root') and value}
    olds = set(places.values())
    if len(olds) != 1:
        keys = ' and '.join(places)
        raise ConfigError(f'data_root: the data sets lie in {", ".join(sorted(olds)) or "no folder"}; set {keys} instead')
    (old,) = olds
    full = dict.fromkeys(places, folder)
    for path, value in _leaves(cfg.to_dict()):
        if 'evaluator' in path and path.endswith('.ann_file') and value and Path(value).is_relative_to(old):
            full[path] = str(Path(folder) / Path(value).relative_to(old))
    return full


def _leaves(node: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """Values of nested dicts and lists by dotted path."""
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, (list, tuple)) else None
    if children is None:
        yield path, node
        return
    for key, child in children:
        yield from _leaves(child, f'{path}.{key}' if path else str(key))


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
