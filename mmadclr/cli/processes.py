"""Several processes of a command, by torchrun, as ``tools/dist_train.sh`` starts them."""

from __future__ import annotations

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence

from mmadclr.shipped import importable

# Signals that torchrun passes on to all processes (where it is new enough to read this); it dies of any other.
PASSED_ON = 'SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1'


def started_by_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return 'TORCHELASTIC_RUN_ID' in os.environ


def start_processes(command: str, args: Namespace, arguments: Sequence[str]) -> None:
    """Becomes torchrun where ``--gpus`` asks for several processes or machines; returns where there is nothing to start.

    torchrun takes the place of this process, so that signals and its status are those of ``mmadclr``.

    Raises:
        ValueError: The processes have been started already, this machine has fewer GPUs, or a variable is missing.
    """
    gpus, launcher = getattr(args, 'gpus', None), getattr(args, 'launcher', 'none')
    if gpus is None or (started_by_torchrun() and launcher == 'pytorch'):
        return
    if launcher != 'none' or started_by_torchrun():
        raise ValueError(
            f'--gpus {gpus} starts the processes itself; where torchrun or a batch system starts them, leave it out and '
            'say --launcher pytorch, slurm or mpi'
        )
    if gpus == 1 and os.environ.get('NNODES', '1') == '1':
        return
    program = torchrun_command(gpus, command, arguments, os.environ)
    check_gpus(gpus)
    check_once(args)
    sys.stdout.flush()
    os.execve(program[0], program, torchrun_environment(os.environ))


def torchrun_command(gpus: int, command: str, arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """torchrun with the same command, on this machine or as one of several.

    Raises:
        ValueError: A variable that says which of several machines this is, or the first one's address, is missing.
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
    """Signals are passed on, the package is found, and files of the current folder stand for no module of others."""
    return {'PET_SIGNALS_TO_HANDLE': PASSED_ON, **importable(environment), 'PYTHONSAFEPATH': '1'}


def check_once(args: Namespace) -> None:
    """Ends with the message of a mistake in the config, if there is one, which else every process would repeat."""
    if 'config' not in args:
        return
    from mmadclr.cli.launch import report_bad_input
    from mmadclr.config.loading import load_config
    from mmadclr.config.sense import check_sense

    alone = Namespace(**{name: value for name, value in vars(args).items() if name not in ('launcher', 'local_rank')})
    logging.disable(logging.WARNING)  # the processes say it
    report_bad_input(lambda: check_sense(load_config(alone)))()


def check_gpus(count: int) -> None:
    """Raises a ValueError if this machine has GPUs, but fewer."""
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if 0 < found < count:
        raise ValueError(f'--gpus {count}: this machine has {found} GPU{"s" * (found > 1)} that may be used')
