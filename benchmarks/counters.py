"""Exact counts of what is dispatched: operations, waits for the device, copies between devices, bytes alive."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations for which the host waits for the device: fetching a number, or a shape that depends on values.
SYNCS = ('_local_scalar_dense', 'nonzero', 'masked_select', 'is_nonzero', 'equal')


class CallCounter(TorchDispatchMode):
    """What is dispatched, by name.

    Attributes:
        operations, names: Views left out; on a GPU about the kernel launches.
        syncs: Those for which the host waits for the device.
        from_numbers: Tensors made of the host's numbers. On a device, a copy from memory that is not pinned: one more wait.
        copies, copied_bytes: Between devices.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.from_numbers = self.copies = self.copied_bytes = 0
        self.names: list[str] = []
        self.syncs: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        name = function.__name__.split('.')[0]
        if not function.is_view:
            self.operations += 1
            self.names.append(name)
        self.from_numbers += name == 'lift_fresh'
        if name in SYNCS or (name == 'repeat_interleave' and kwargs.get('output_size') is None):
            self.syncs.append(name)
        if name in ('_to_copy', 'copy_'):
            source = args[-1] if isinstance(args[-1], Tensor) else args[0]
            moved = source.device.type != result.device.type
            self.copies += moved
            self.copied_bytes += moved * result.nbytes
        return result


class PeakBytes(TorchDispatchMode):
    """Bytes of storages made while active: ``now`` alive, ``most`` at a time. Temporaries inside an operation are left out.

    Works on the ``meta`` device, where nothing is computed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        known = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in known:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self.alive:
            return
        self.alive[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._remove, storage._cdata)

    def _remove(self, key: int) -> None:
        self.now -= self.alive.pop(key, 0)
