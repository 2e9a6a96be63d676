"""Shared-memory arrays for batches, reused by workers once their previous contents are no longer referenced.

Allocating shared memory for every batch costs page faults, zeroing and unmapping. Here a worker keeps some blocks. A
block is free when two conditions hold, each signaled by the finalization of a numpy object that all its tensors keep
alive: in the worker, no tensor references it; in the main process, no tensor references the received memory, which is
recorded in a byte at the start of the block. A batch, or any part of it, may therefore be held indefinitely, and
a worker without a free block allocates one. Only full batches of :func:`mmadclr.datasets.loading.collate_samples` are sent
in their block. Tensors that a collate function sends otherwise are copied by torch into separate memory.
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
FREE, HELD, KEPT = 0, 1, 2  # state set by the main process: first byte of a block
SPARE = 2  # free blocks kept besides the one in use; more are released after a peak
MOST = 16  # blocks tracked by a worker; beyond this it forgets the oldest, which are in use elsewhere
MAP_FLAGS = mmap.MAP_SHARED | getattr(mmap, 'MAP_POPULATE', 0)  # maps all pages at once, without page faults

Shapes = Mapping[str, tuple[int, ...]]


class SharedArrays:
    """The blocks of one worker; a copy, as for another process, starts empty."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return SharedArrays, ()

    def take(self, shapes: Shapes, shared: bool) -> dict[str, Tensor]:
        """Uninitialized uint8 arrays of these shapes.

        Args:
            shapes: By name.
            shared: Allocate in shared memory, for a worker process, which avoids copies to the main process. Returns
                ``LentArrays`` if blocks can be sent as file descriptors.
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
        """An unreferenced block of at least ``size`` bytes."""
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
        """(size,) uint8. The block is not free until this tensor, and all that share its memory, are released."""
        body = self._bytes[HEADER:]
        self.lent = True
        weakref.finalize(body, setattr, self, 'lent', False).atexit = False
        return torch.from_numpy(body)

    def holds(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() == self._bytes.ctypes.data + HEADER

    def send(self) -> tuple[Any, int]:
        """Handle for another process, used once; the block is not free until that process releases it."""
        self._bytes[0] = HELD
        return DupFd(self._storage._share_fd_cpu_()[0]), HEADER + self.size


class LentArrays(dict):
    """Arrays by name, in a block."""

    def __init__(self, arrays: dict[str, Tensor], block: _Block) -> None:
        super().__init__(arrays)
        self.block = block


class LentBatch(dict):
    """A batch with some tensors in a block; sent once to the main process, as a plain dictionary.

    Args:
        batch: The full batch.
        block: Block of the tensors.
        lent: The tensors in it, by name.
    """

    def __init__(self, batch: Mapping[str, Any], block: _Block, lent: Mapping[str, Tensor]) -> None:
        super().__init__(batch)
        self._block: _Block | None = block
        self._lent = dict(lent)

    def __reduce__(self) -> tuple:
        block, self._block = self._block, None
        # Entries may have been replaced, and torch moves tensors that are sent separately to other memory.
        lent = {name: x for name, x in self._lent.items() if block and self.get(name) is x and block.holds(x)}
        if block is None or not lent:
            return dict, (dict(self),)
        places = {name: (tuple(x.shape), x.stride(), x.storage_offset()) for name, x in lent.items()}
        rest = {name: value for name, value in self.items() if name not in lent}
        return _receive, (list(self), rest, places, *block.send())


_received: dict[int, weakref.finalize] = {}  # batches held by the main process, by memory address


def _receive(order: list[str], rest: dict, places: dict[str, tuple], opened: Any, size: int) -> dict:
    """The batch in the main process; releasing its tensors frees the worker's block."""
    file = opened.detach()
    try:
        memory = np.frombuffer(mmap.mmap(file, size, MAP_FLAGS), np.uint8)
    finally:
        os.close(file)
    body = memory[HEADER:]
    flat = torch.from_numpy(body)  # its storage, shared by all views, keeps ``body`` alive
    _received[memory.ctypes.data] = end = weakref.finalize(body, _give_back, memory, os.getpid())
    end.atexit = False
    found = {**rest, **{name: flat.as_strided(*place) for name, place in places.items()}}
    return {name: found[name] for name in order}


def _give_back(memory: np.ndarray, owner: int) -> None:
    _received.pop(memory.ctypes.data, None)
    if os.getpid() == owner:
        memory[0] = FREE


def _keep_for_children() -> None:
    """A forked process sees the batches held by its parent: they are kept unchanged, and workers forget them."""
    while _received:
        _, end = _received.popitem()
        if gone := end.detach():
            gone[2][0][0] = KEPT


os.register_at_fork(before=_keep_for_children)


def _places(shapes: Shapes) -> dict[str, int]:
    """Offset of each array, at multiples of the header size."""
    sizes = [-(-math.prod(shape) // HEADER) * HEADER for shape in shapes.values()]
    return dict(zip(shapes, np.cumsum([0, *sizes]).tolist(), strict=False))


def _new_shared(size: int) -> torch.UntypedStorage:
    return torch.UntypedStorage._new_shared(size)  # as in torch's collate function


def _as_tensor(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)
