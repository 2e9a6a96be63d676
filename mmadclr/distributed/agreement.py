"""Decisions that all processes take together: at the same iteration, or when one of them has failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from mmengine import dist
from torch import distributed

from mmadclr.annotations import MaybeNone

T = TypeVar('T')


class Agreement:
    """Makes what one process wants known to all, without ever waiting for a device.

    Wishes are exchanged beside the work of an iteration and known to all at the next: every process gets the same answer at
    the same iteration. With a single process the answer is immediate.
    """

    def __init__(self) -> None:
        # NCCL would queue the exchange behind the work of the GPU; gloo runs on a thread of the CPU.
        self.group = distributed.new_group(backend='gloo') if dist.is_distributed() else None
        self.pending: tuple[distributed.Work, torch.Tensor] | None = None

    def exchange(self, wishes: Sequence[bool]) -> list[bool]:
        """Which wishes any process had at the previous call (with one process: at this one)."""
        if self.group is None:
            return list(wishes)
        known = self.wait()
        mine = torch.tensor(wishes, dtype=torch.int32)
        self.pending = distributed.all_reduce(mine, distributed.ReduceOp.MAX, self.group, async_op=True), mine
        return known or [False] * len(wishes)

    def wait(self) -> list[bool] | None:
        """Ends the exchange that is under way, if there is one."""
        if self.pending is None:
            return None
        work, result = self.pending
        self.pending = None
        work.wait()
        return [bool(value) for value in result.tolist()]

    def decide(self, wish: bool) -> bool:
        """Whether any process wishes so now; all have to ask, and wait for each other."""
        known = self.exchange([wish])
        return (self.wait() or known)[0]

    def meet(self, patience_s: float | None = None) -> bool:
        """Returns when all processes are here; with ``patience_s``, False when some have not come in time."""
        self.wait()
        if self.group is None:
            return True
        if patience_s is None:
            distributed.barrier(self.group)
            return True
        try:
            distributed.barrier(self.group, async_op=True).wait(timedelta(seconds=patience_s))
        except RuntimeError:  # time is up, or another process has ended
            return False
        return True


def together(work: Callable[[], T]) -> T:
    """Runs a part of the work on every process; an error on one ends all, where else they would wait for it.

    Raises:
        ValueError: Another process failed.
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
            raise ValueError(f'process {rank} failed: {failure}')
    return result
