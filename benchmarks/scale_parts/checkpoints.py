"""Memory while checkpoints are written and read, and how long training pauses for one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import common
import torch
from common import Row

from mmadclr.checkpoint.reading import read_checkpoint
from mmadclr.checkpoint.run_files import find_damage, read_state, write_checkpoint
from mmadclr.checkpoint.snapshots import snapshot
from mmadclr.checkpoint.writer import CheckpointWriter
from scale_parts.measured import MB, cost


def state_of(megabytes: int) -> dict:
    """A state of weights and twice as many numbers of an optimizer, in tensors of up to 4 MB."""
    tensors = {str(number): torch.ones(1_000_000) for number in range(max(1, megabytes // 12))}
    moments = {int(name): dict(exp_avg=tensor.clone(), exp_avg_sq=tensor.clone()) for name, tensor in tensors.items()}
    return dict(meta={}, message_hub={}, state_dict=tensors, optimizer=dict(state=moments, param_groups=[]))


def write_two(copies_first: bool, megabytes: int, warm_up: bool = False) -> dict:
    """Two checkpoints, the second when the first is still being written; the state itself is there before."""
    state = state_of(12 if warm_up else megabytes)
    with tempfile.TemporaryDirectory() as folder:
        writer = CheckpointWriter(print, lambda: None)
        for number in range(2):
            content = snapshot(state) if copies_first else state
            writer.write(content, Path(folder) / f'iter_{number}.pth')
            del content
        writer.wait()
    return state


def read(mapped: bool, path: str, warm_up: bool = False) -> dict:
    """A state for a device with memory of its own."""
    return {} if warm_up else read_state(path, 'cuda') if mapped else read_checkpoint(path)


def rows(scale: float = 1.0) -> list[Row]:
    megabytes = max(12, int(600 * scale))
    state = state_of(megabytes)
    size = sum(tensor.nbytes for tensor in state['state_dict'].values()) * 3
    gib = size / 2**30
    ours, theirs = (cost(write_two, copies_first, megabytes).peak / size for copies_first in (False, True))
    found = [common.counted_row('memory of two checkpoints in a row, state included', 'times the state', ours, theirs)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'iter_1.pth'
        seconds = {
            'copied (the pause of training)': common.seconds(lambda: snapshot(state)),
            'written': common.seconds(lambda: write_checkpoint(state, path)),
            'checked': common.seconds(lambda: find_damage(path)),
        }
        found += [Row(f'a state is {name}', 's a GiB', value / gib) for name, value in seconds.items()]
        ours, theirs = (cost(read, mapped, str(path)).held / MB for mapped in (True, False))
    note = f'of a file of {size / MB:.0f} MB'
    return [*found, common.counted_row('memory of each process that goes on', 'MB', ours, theirs, note=note)]
