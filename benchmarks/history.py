"""What logging costs in a long run: ``python benchmarks/history.py``.

The scalars of a step put into mmengine's message hub, with bounded histories and with mmengine's own buffers, in turn, at
several lengths of the run; and what a checkpoint holds of them. The time of ours is the mean over as many steps as pass
between two at which old entries leave.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable
from functools import partial

import common
import numpy as np
import torch
from common import Row
from mmengine.logging import HistoryBuffer, MessageHub

from mmadclr.checkpoint.run_state import plain_history
from mmadclr.checkpoint.scalar_history import BoundedHistory, bound_histories

LENGTHS = (0, 100_000, 1_000_000)
CYCLE = BoundedHistory().max_length - BoundedHistory.keep


def hub_of(kind: type[HistoryBuffer], length: int, scalars: int) -> MessageHub:
    """A hub after ``length`` steps; with mmengine's buffers, new ones are such, too."""
    values = np.random.default_rng(0).normal(size=length)
    names = [f'train/scalar_{number}' for number in range(scalars)]
    hub = MessageHub('history', {name: kind(values, np.ones(length)) for name in names} if length else None)
    hub._resumed_keys = dict.fromkeys(names, True)
    if kind is BoundedHistory:
        bound_histories(hub)
    return hub


def log(hub: MessageHub, steps: int) -> None:
    for step in range(steps):
        for name in hub._resumed_keys:
            hub.update_scalar(name, step / 7)


def step_row(length: int, scalars: int, steps: int, rounds: int) -> Row:
    """Milliseconds a step at a length of the run; ours over a cycle, mmengine's over ``steps``."""
    ours, theirs = (
        partial(log, hub_of(kind, length, scalars), number)
        for kind, number in ((BoundedHistory, CYCLE), (HistoryBuffer, steps))
    )
    times = [(milliseconds(ours, CYCLE), milliseconds(theirs, steps)) for _ in range(rounds)]
    ratios = sorted(slow / fast for fast, slow in times)
    quantity = f'{scalars} scalars, from iteration {length:,}'
    middle = (statistics.median(column) for column in (*zip(*times, strict=True), ratios))
    return Row(quantity, 'ms a step', *middle, (ratios[0], ratios[-1]), target='<= 0.1')


def milliseconds(function: Callable[[], object], steps: int) -> float:
    return common.seconds(function) / steps * 1e3


def size_row(length: int, scalars: int) -> Row:
    """Megabytes in a checkpoint; with mmengine's buffers all values and counts, as tensors."""
    ours = plain_history(hub_of(BoundedHistory, length, scalars).state_dict())
    buffers = hub_of(HistoryBuffer, length, scalars).log_scalars
    theirs = {name: [torch.from_numpy(part) for part in buffer.data] for name, buffer in buffers.items()}
    sizes = [saved_bytes(ours), saved_bytes(theirs)]
    quantity = f'{scalars} scalars of {length:,} iterations in a checkpoint'
    return common.counted_row(quantity, 'MB', *(size / 1e6 for size in sizes), target='<= 5')


def saved_bytes(content: object) -> int:
    file = io.BytesIO()
    torch.save(content, file)
    return file.tell()


def main() -> None:
    args = common.parser(__doc__, scalars=20, steps=20, rounds=9).parse_args()
    args.device = 'cpu'  # histories are there
    rows = [step_row(length, args.scalars, args.steps, args.rounds) for length in LENGTHS]
    common.report('history', [*rows, *(size_row(length, args.scalars) for length in LENGTHS[1:])], args)


if __name__ == '__main__':
    main()
