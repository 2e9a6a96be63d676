"""How a command ends: errors of its input become a one-line message."""

from __future__ import annotations

import functools
import gc
import signal
import sys
import traceback
from collections.abc import Callable

import torch

from mmadclr.datasets.image_dataset import UnreadableImageError
from mmadclr.datasets.loader_workers import GROUP_SIGNALS
from mmadclr.datasets.remote import StoreError
from mmadclr.ops import UnsupportedOpError  # this import installs the replacement before any config imports mmdet
from mmadclr.packages import EXTRAS, how_to_get, missing_module
from mmadclr.reliability.loader_guard import WorkerDiedError
from mmadclr.reliability.stop_signals import PreemptedError

BAD_INPUT = (
    *(ValueError, FileNotFoundError, FileExistsError, FloatingPointError),
    *(UnreadableImageError, UnsupportedOpError, WorkerDiedError),
)
INTERRUPTED = 128 + signal.SIGINT


def report_bad_input(main: Callable[[], None]) -> Callable[[], None]:
    """Ends a tool with a message instead of a traceback if its input has an error.

    This applies only to errors that this package raises on purpose; all others keep their traceback. Ctrl-C ends the tool
    with one line and status 130, as in shells. A run that stopped after a checkpoint keeps its status, whatever happens
    during its exit.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        for stream in (sys.stdout, sys.stderr):  # file names may not be encodable for the terminal
            if hasattr(stream, 'reconfigure'):
                stream.reconfigure(errors='backslashreplace')
        try:
            main()
        except (*BAD_INPUT, ImportError) as error:
            sys.exit(f'error: {_explained(error)}')
        except PreemptedError:
            for number in GROUP_SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # srun sends SIGTERM to all tasks as soon as one ends
            raise
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C does not wait for cleanup
            print('error: interrupted (Ctrl-C)', file=sys.stderr)
            sys.exit(INTERRUPTED)
        leave_process_group()

    return wrapped


def leave_process_group() -> None:
    """Ends communication with the other processes at the end of a tool. Otherwise, threads of gloo may abort the exit.

    Not called after an error: the other processes may be waiting for this one.
    """
    if torch.distributed.is_initialized():
        gc.collect()  # sharded models and their runners refer to each other, and to groups of processes
        torch.distributed.destroy_process_group()


def _explained(error: BaseException) -> str:
    """The message of an error that this package raised on purpose, or of a missing package; raises any other error again."""
    module = missing_module(error)
    if _is_ours(error) and not isinstance(error, ModuleNotFoundError):
        return _message(error)
    if isinstance(error, ImportError) and module in EXTRAS:
        return f'{module} cannot be imported: {how_to_get(module)}'
    raise error


def _message(error: BaseException) -> str:
    """The original message: an error in a loader worker arrives as the text of its traceback."""
    text = str(error)
    return text.splitlines()[-1].partition(': ')[2] if text.startswith('Caught') else text


def _is_ours(error: BaseException) -> bool:
    if isinstance(error, (UnreadableImageError, StoreError)):
        return True  # only this package raises them; torch passes them on from loader workers
    *_, last = traceback.walk_tb(error.__traceback__)
    return last[0].f_globals.get('__name__', '').startswith('mmadclr.')
