"""Starts several processes of a command by torchrun, as ``tools/dist_train.sh`` does."""

from __future__ import annotations

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from importlib import import_module

from mmadclr.shipped import importable

# Signals that torchrun passes on to all processes, if its version supports this; other signals kill it.
PASSED_ON = 'SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1'


def started_by_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return 'TORCHELASTIC_RUN_ID' in os.environ


def start_processes(command: str, args: Namespace, arguments: Sequence[str]) -> None:
    """Replaces this process by torchrun if ``--gpus`` requires several processes or machines; otherwise returns.

    As torchrun replaces the process, it receives the signals to ``mmadclr`` and sets its exit status.

    Raises:
        ValueError: The processes are already started, this machine has fewer GPUs, or a variable is missing.
    """
    gpus, launcher = getattr(args, 'gpus', None), getattr(args, 'launcher', 'none')
    if gpus is None or (started_by_torchrun() and launcher == 'pytorch'):
        return
    if launcher != 'none' or started_by_torchrun():
        raise ValueError(
            f'--gpus {gpus} starts the processes itself; if torchrun or a batch system starts them, omit it and '
            'set --launcher to pytorch, slurm or mpi'
        )
    if gpus == 1 and os.environ.get('NNODES', '1') == '1':
        return
    program = torchrun_command(gpus, command, arguments, os.environ)
    check_gpus(gpus)
    check_once(command, args)
    sys.stdout.flush()
    os.execve(program[0], program, torchrun_environment(os.environ))


def torchrun_command(gpus: int, command: str, arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """torchrun with the same command, on this machine or as one of several.

    Raises:
        ValueError: A variable with the rank of this machine or the address of the first one is missing.
    """
    nodes = environment.get('NNODES', '1')
    place = ['--standalone']
    if nodes != '1':
        missing = [name for name in ('NODE_RANK', 'MASTER_ADDR') if not environment.get(name)]
        if missing:
            raise ValueError(f'NNODES={nodes}: set {" and ".join(missing)} as well')
        place = [f'--nnodes={nodes}', f'--node_rank={environment["NODE_RANK"]}']
        place += [f'--master_addr={environment["MASTER_ADDR"]}', f'--master_port={environment.get("MASTER_PORT", "29500")}']
    launch = [sys.executable, '-m', 'torch.distributed.run', *place, f'--nproc_per_node={gpus}']
    return [*launch, '-m', 'mmadclr', command, '--launcher', 'pytorch', *arguments]


def torchrun_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Passes signals on, makes the package importable, and prevents files in the current folder from shadowing modules."""
    return {'PET_SIGNALS_TO_HANDLE': PASSED_ON, **importable(environment), 'PYTHONSAFEPATH': '1'}


def check_once(command: str, args: Namespace) -> None:
    """Ends with the message of an error in the input, if there is one; otherwise every process would repeat it.

    A command checks its own input by ``check(args)``, or it has a config.
    """
    check = getattr(import_module(f'mmadclr.cli.{command.replace("-", "_")}'), 'check', None)
    if check is None and 'config' not in args:
        return
    from mmadclr.cli.launch import report_bad_input

    logging.disable(logging.WARNING)  # the processes log them
    report_bad_input(lambda: (check or check_config)(args))()


def check_config(args: Namespace) -> None:
    """Raises ConfigError if the config of a command has an error."""
    from mmadclr.config.loading import load_config
    from mmadclr.config.sense import check_sense

    alone = Namespace(**{name: value for name, value in vars(args).items() if name not in ('launcher', 'local_rank')})
    check_sense(load_config(alone))


def check_gpus(count: int) -> None:
    """Raises ValueError if this machine has GPUs, but fewer than ``count``."""
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if 0 < found < count:
        raise ValueError(f'--gpus {count}: only {found} GPU{"s" * (found > 1)} available on this machine')
