"""A lock on a work dir, so that two runs do not write into the same one."""

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

TAKEN = (errno.EACCES, errno.EAGAIN)  # what POSIX has for a lock that another process holds; others: there are no locks


@contextmanager
def sole_use(work_dir: str | Path) -> Iterator[None]:
    """Holds a work dir for this run, which ends with the process however it ends.

    Where the file system has no locks (some network and parallel file systems), the run goes on with a warning.

    Raises:
        ValueError: Another run lives there; on every process.
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
                f'{work_dir} is in use by a run that lives ({owner}): wait for its end, or choose another --work-dir'
            )
        yield
    finally:
        if file is not None:
            file.close()


def _try_to_own(file) -> str | None:
    """None if the lock is ours now, or there are none, else who has it. A record lock: loader workers do not inherit it."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in TAKEN:
            file.seek(0)
            return file.read().strip() or 'unknown process'
        print_log(
            f'{file.name} cannot be locked ({error.strerror}): nothing keeps a second run out of this work dir; see to it '
            'that there is one alone',
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
