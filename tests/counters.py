"""Exact counts of what is dispatched, for tests of memory and synchronisation."""

from __future__ import annotations

import weakref

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class SyncCounter(TorchDispatchMode):
    """Names of dispatched operations for which a host would wait for its device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split('.')[0]
        if name in ('_local_scalar_dense', 'nonzero', 'masked_select', 'is_nonzero', 'equal'):
            self.names.append(name)
        return function(*args, **(kwargs or {}))


class PeakBytes(TorchDispatchMode):
    """Most bytes of storages that were made while active and exist at a time (temporaries inside an operation left out)."""

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

    def _add(self, storage) -> None:
        if storage._cdata in self.alive:
            return
        self.alive[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._remove, storage._cdata)

    def _remove(self, key: int) -> None:
        self.now -= self.alive.pop(key, 0)
