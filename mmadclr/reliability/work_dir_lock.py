"""A lock on a work dir, so that two runs cannot write to the same one."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine import dist
from mmengine.logging import print_log

TAKEN = (errno.EACCES, errno.EAGAIN)  # POSIX errors for a lock held by another process; other errors mean no lock support


@contextmanager
def sole_use(work_dir: str | Path) -> Iterator[None]:
    """Locks a work dir for this run; the lock is released when the process ends for any reason.

    If the file system does not support locks (some network and parallel file systems), the run continues with a warning.

    Raises:
        ValueError: Another run is using it; raised on every process.
    """
    file, owner = None, None
    if dist.is_main_process():
        Path(work_dir).mkdir(parents=True, exist_ok=True)
        file = (Path(work_dir) / '.running').open('a+')
        owner = _try_to_own(file)
    (owner,) = _from_main_process(owner)
    try:
        if owner is not None:
            raise ValueError(
                f'{work_dir} is in use by another run ({owner}): wait until it ends, or choose another --work-dir'
            )
        yield
    finally:
        if file is not None:
            file.close()


def _try_to_own(file) -> str | None:
    """None if the lock was acquired or is not supported, else its owner. A record lock, not inherited by workers."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in TAKEN:
            file.seek(0)
            return file.read().strip() or 'unknown process'
        print_log(
            f'{file.name} cannot be locked ({error.strerror}): a second run in this work dir would not be detected; make '
            'sure that there is only one',
            'current',
            logging.WARNING,
        )
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}')
    file.flush()
    return None


def _from_main_process(value: str | None) -> list[str | None]:
    values = [value]
    dist.broadcast_object_list(values)
    return values
