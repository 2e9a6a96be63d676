"""Decisions of all processes together, and errors on a single process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from mmengine import dist
from torch import distributed

from mmadclr.annotations import MaybeNone

T = TypeVar('T')


class OtherProcessError(ValueError):
    """Raised on a process because another one failed, which raises the error itself."""


class Agreement:
    """Shares requests of single processes with all processes, without device synchronization.

    Requests are exchanged concurrently with an iteration and known at the next one: every process gets the same answer at
    the same iteration. With a single process the answer is immediate.
    """

    def __init__(self) -> None:
        # NCCL would queue the exchange behind GPU work; gloo runs in a CPU thread.
        self.group = distributed.new_group(backend='gloo') if dist.is_distributed() else None
        self.pending: tuple[distributed.Work, torch.Tensor] | None = None

    def exchange(self, wishes: Sequence[bool]) -> list[bool]:
        """Requests made by any process at the previous call (with one process: at this call)."""
        if self.group is None:
            return list(wishes)
        known = self.wait()
        mine = torch.tensor(wishes, dtype=torch.int32)
        self.pending = distributed.all_reduce(mine, distributed.ReduceOp.MAX, self.group, async_op=True), mine
        return known or [False] * len(wishes)

    def wait(self) -> list[bool] | None:
        """Finishes the pending exchange, if any."""
        if self.pending is None:
            return None
        work, result = self.pending
        self.pending = None
        work.wait()
        return [bool(value) for value in result.tolist()]

    def decide(self, wish: bool) -> bool:
        """Whether any process requests it now; a blocking collective call."""
        known = self.exchange([wish])
        return (self.wait() or known)[0]

    def meet(self, patience_s: float | None = None) -> bool:
        """Barrier; with ``patience_s``, returns False if some processes do not arrive in time."""
        self.wait()
        if self.group is None:
            return True
        if patience_s is None:
            distributed.barrier(self.group)
            return True
        try:
            distributed.barrier(self.group, async_op=True).wait(timedelta(seconds=patience_s))
        except RuntimeError:  # timeout, or another process has exited
            return False
        return True


def together(work: Callable[[], T]) -> T:
    """Runs a function on every process; an error on one is raised on all, which would otherwise wait for it.

    Raises:
        OtherProcessError: Another process failed.
    """
    result: T | MaybeNone = None
    error: Exception | None = None
    try:
        result = work()
    except Exception as caught:
        error = caught
    failures = dist.all_gather_object(None if error is None else f'{type(error).__name__}: {error}')
    if error is not None:
        raise error
    for rank, failure in enumerate(failures):
        if failure is not None:
            raise OtherProcessError(f'process {rank} failed: {failure}')
    return result
