"""Several processes as one command: what one does for all, and errors that are said once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
from mmengine import dist
from torch import distributed

from mmadclr.annotations import MaybeNone
from mmadclr.distributed.agreement import OtherProcessError
from mmadclr.evaluation.suite.passes import alone

PATIENCE = timedelta(seconds=60)
T = TypeVar('T')


def on_main(work: Callable[[], T]) -> T:
    """What the main process finds, on every process; the others wait without time limit.

    Raises:
        OtherProcessError: It failed; the main process raises the error itself.
    """
    sent: list[T | MaybeNone] = [alone(work)]
    dist.broadcast_object_list(sent)
    return sent[0]


def said_once(work: Callable[[], T]) -> T:
    """Runs a part of the command on every process; if it fails, one process raises an error and the others just exit.

    That is the first process with an error of its own. A process that fails waits for the others, but not for long: they
    may be waiting for it within ``work``, and end when it ends.

    Raises:
        SystemExit: Another process raises its error.
    """
    group = _group()
    if group is None:
        return work()
    result: T | MaybeNone = None
    error: Exception | None = None
    try:
        result = work()
    except Exception as caught:
        error = caught
    first = _first_failing(error, group)
    if error is not None and first in (None, dist.get_rank()):
        raise error
    if first is not None:
        with suppress(RuntimeError):  # the connection is closed when the other process has told its error and ended
            distributed.barrier(group, async_op=True).wait(PATIENCE)  # launchers end all as soon as one ends
        sys.exit(1)
    return result


def _first_failing(error: Exception | None, group: distributed.ProcessGroup) -> int | None:
    """The first process with an error of its own, or else with any; None if no process fails, or if others did not come."""
    rank, size = dist.get_rank(), dist.get_world_size()
    place = torch.tensor(2 * size if error is None else rank + size * isinstance(error, OtherProcessError))
    sent = distributed.all_reduce(place, distributed.ReduceOp.MIN, group, async_op=True)
    if error is None:
        sent.wait()
    else:
        try:
            sent.wait(PATIENCE)
        except RuntimeError:  # too late, or the others have ended
            return None
    return None if place.item() == 2 * size else int(place.item()) % size


@cache
def _group() -> distributed.ProcessGroup | None:
    return distributed.new_group(backend='gloo', timeout=timedelta(days=30)) if dist.is_distributed() else None
