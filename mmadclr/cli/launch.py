"""How a command ends: with a message of one line where its input is at fault."""

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
from mmadclr.ops import UnsupportedOpError  # the import puts the stand-in in place before any config imports mmdet
from mmadclr.packages import EXTRAS, how_to_get, missing_module
from mmadclr.reliability.loader_guard import WorkerDiedError
from mmadclr.reliability.stop_signals import PreemptedError

BAD_INPUT = (
    *(ValueError, FileNotFoundError, FileExistsError, FloatingPointError),
    *(UnreadableImageError, UnsupportedOpError, WorkerDiedError),
)
INTERRUPTED = 128 + signal.SIGINT


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
        except (*BAD_INPUT, ImportError) as error:
            sys.exit(f'error: {_explained(error)}')
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


def _explained(error: BaseException) -> str:
    """What to say about an error that this package raised on purpose, or a missing package; any other is raised again."""
    module = missing_module(error)
    if _is_ours(error) and not isinstance(error, ModuleNotFoundError):
        return _message(error)
    if isinstance(error, ImportError) and module in EXTRAS:
        return f'{module} cannot be imported: {how_to_get(module)}'
    raise error


def _message(error: BaseException) -> str:
    """The message as it was raised: an error from a worker of the loader arrives as a text of its traceback."""
    text = str(error)
    return text.splitlines()[-1].partition(': ')[2] if text.startswith('Caught') else text


def _is_ours(error: BaseException) -> bool:
    if isinstance(error, (UnreadableImageError, StoreError)):
        return True  # no one else raises them, and from a worker of the loader they arrive by way of torch
    *_, last = traceback.walk_tb(error.__traceback__)
    return last[0].f_globals.get('__name__', '').startswith('mmadclr.')
