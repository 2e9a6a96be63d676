"""Arrays of batches in shared memory that workers use again, when nobody holds what they were filled with before.

Fresh shared memory for every batch costs page faults, zeros and an unmapping a batch. Here a worker keeps some blocks. A
block is free when two things have come to pass, both of which are the end of an object of numpy that all its tensors keep
alive: in the worker, no tensor is left on it; in the main process, no tensor is left on what was received, of which a byte
at the beginning of the block tells. A batch may therefore be held for as long as anybody likes, as may any part of it, and
a worker that finds no free block makes one. Only a whole batch of :func:`mmadclr.datasets.loading.collate_samples` is sent
in its block. Whatever else of it a collate function sends, torch copies into memory of its own.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
import weakref
from collections.abc import Mapping
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
import torch
from torch import Tensor

HEADER = 64  # bytes in front of the arrays
FREE, HELD, KEPT = 0, 1, 2  # by the main process: the first byte of a block
SPARE = 2  # free blocks that are kept beside the one in use: what a moment of many batches took is given back
MOST = 16  # blocks that a worker knows; of more, which are held somewhere, it forgets the oldest
MAP_FLAGS = mmap.MAP_SHARED | getattr(mmap, 'MAP_POPULATE', 0)  # all pages at once, not with a fault each

Shapes = Mapping[str, tuple[int, ...]]


class SharedArrays:
    """The blocks of one worker; a copy, as for another process, begins with none."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return SharedArrays, ()

    def take(self, shapes: Shapes, shared: bool) -> dict[str, Tensor]:
        """Uninitialized uint8 arrays of these shapes.

        Args:
            shapes: By name.
            shared: In shared memory, for a worker process: nothing is copied on the way to the main process. What comes
                back is then a ``LentArrays``, if blocks can be sent as open files.
        """
        if not shared:
            return {name: torch.empty(shape, dtype=torch.uint8) for name, shape in shapes.items()}
        if torch.multiprocessing.get_sharing_strategy() != 'file_descriptor':
            return {name: _as_tensor(_new_shared(math.prod(shape))).view(shape) for name, shape in shapes.items()}
        places = _places(shapes)
        block = self._free_block(max((place + math.prod(shapes[name]) for name, place in places.items()), default=0))
        flat = block.lend()
        arrays = {name: flat[place:][: math.prod(shapes[name])].view(shapes[name]) for name, place in places.items()}
        return LentArrays(arrays, block)

    def _free_block(self, size: int) -> _Block:
        """One that nobody holds, of ``size`` bytes or more."""
        with self._lock:
            free = [block for block in self._blocks if block.is_free()]
            fitting = [block for block in free if block.size >= size]
            block = fitting[-1] if fitting else _Block(size)
            held = [other for other in self._blocks if other not in free and not other.is_lost()]
            self._blocks = [*held, *[other for other in fitting if other is not block][-SPARE:], block][-MOST:]
            return block


class _Block:
    """A piece of shared memory: a header, and ``size`` bytes."""

    def __init__(self, size: int) -> None:
        self.size, self.lent = size, False
        self._storage = _new_shared(HEADER + size)
        self._bytes = _as_tensor(self._storage).numpy()
        self._bytes[0] = FREE

    def is_free(self) -> bool:
        return not self.lent and self._bytes[0] == FREE

    def is_lost(self) -> bool:
        return self._bytes[0] == KEPT

    def lend(self) -> Tensor:
        """(size,) uint8. The block is not free until this tensor, and all that share its memory, are gone."""
        body = self._bytes[HEADER:]
        self.lent = True
        weakref.finalize(body, setattr, self, 'lent', False).atexit = False
        return torch.from_numpy(body)

    def holds(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() == self._bytes.ctypes.data + HEADER

    def send(self) -> tuple[Any, int]:
        """What another process opens it by, once; not free until that process says so."""
        self._bytes[0] = HELD
        return DupFd(self._storage._share_fd_cpu_()[0]), HEADER + self.size


class LentArrays(dict):
    """Arrays by name, in a block."""

    def __init__(self, arrays: dict[str, Tensor], block: _Block) -> None:
        super().__init__(arrays)
        self.block = block


class LentBatch(dict):
    """A batch, some tensors of which lie in a block; to the main process it goes as a plain dictionary, once.

    Args:
        batch: All of it.
        block: Where the tensors lie.
        lent: Their names.
    """

    def __init__(self, batch: Mapping[str, Any], block: _Block, lent: Mapping[str, Tensor]) -> None:
        super().__init__(batch)
        self._block: _Block | None = block
        self._lent = dict(lent)

    def __reduce__(self) -> tuple:
        block, self._block = self._block, None
        # Others may have been put in their place, and torch moves tensors that are sent on their own to other memory.
        lent = {name: x for name, x in self._lent.items() if block and self.get(name) is x and block.holds(x)}
        if block is None or not lent:
            return dict, (dict(self),)
        places = {name: (tuple(x.shape), x.stride(), x.storage_offset()) for name, x in lent.items()}
        rest = {name: value for name, value in self.items() if name not in lent}
        return _receive, (list(self), rest, places, *block.send())


_received: dict[int, weakref.finalize] = {}  # what the main process holds, by the place of its memory


def _receive(order: list[str], rest: dict, places: dict[str, tuple], opened: Any, size: int) -> dict:
    """The batch in the main process; when its tensors are gone, the worker's block is free."""
    file = opened.detach()
    try:
        memory = np.frombuffer(mmap.mmap(file, size, MAP_FLAGS), np.uint8)
    finally:
        os.close(file)
    body = memory[HEADER:]
    flat = torch.from_numpy(body)  # whose memory, and so that of all views, keeps ``body`` alive
    _received[memory.ctypes.data] = end = weakref.finalize(body, _give_back, memory, os.getpid())
    end.atexit = False
    found = {**rest, **{name: flat.as_strided(*place) for name, place in places.items()}}
    return {name: found[name] for name in order}


def _give_back(memory: np.ndarray, owner: int) -> None:
    _received.pop(memory.ctypes.data, None)
    if os.getpid() == owner:
        memory[0] = FREE


def _keep_for_children() -> None:
    """A process that is forked sees the batches that its parent holds: they stay as they are, and workers forget them."""
    while _received:
        _, end = _received.popitem()
        if gone := end.detach():
            gone[2][0][0] = KEPT


os.register_at_fork(before=_keep_for_children)


def _places(shapes: Shapes) -> dict[str, int]:
    """Where each array begins, at multiples of the header's length."""
    sizes = [-(-math.prod(shape) // HEADER) * HEADER for shape in shapes.values()]
    return dict(zip(shapes, np.cumsum([0, *sizes]).tolist(), strict=False))


def _new_shared(size: int) -> torch.UntypedStorage:
    return torch.UntypedStorage._new_shared(size)  # as torch's own collate function does


def _as_tensor(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)
