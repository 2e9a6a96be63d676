"""Histories of logged scalars with bounded memory and time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MessageHub

LARGEST_INTEGER = 2**53  # float64 represents all integers up to here exactly
MERGE = (np.add, np.add, np.minimum, np.maximum)  # per row of a stretch: sum, sum of counts, minimum, maximum


class BoundedHistory(HistoryBuffer):
    """mmengine's ``HistoryBuffer`` in bounded memory: the newest entries individually, older ones merged into stretches.

    ``HistoryBuffer`` copies itself at every update, up to 16 MB at a million entries. This class keeps at least the newest
    ``keep`` entries unchanged, and at most ``max_length``. When full, it merges the oldest entries into stretches of equal
    length, storing their sum, sum of counts, minimum and maximum. The length of stretches is a power of two, doubled
    whenever the full history would need more than ``points`` of them. The result depends only on the entries, not on when
    they were saved and loaded.

    ``mean``, ``max`` and ``min`` are bit-identical to ``HistoryBuffer`` for windows within the unmerged entries. For windows
    over everything, ``max`` and ``min`` are exact and ``mean`` is exact up to rounding; ``HistoryBuffer`` discards entries
    older than a million, this class does not. A window in between starts at the beginning of the stretch that contains its
    first entry, so up to ``stretch`` - 1 entries early. ``data``, and methods of ``register_statistics`` that read
    ``_log_history``, see only the unmerged entries.

    Args:
        log_history: (N,) values.
        count_history: (N,) their counts.

    Raises:
        ValueError: The numbers of values and counts differ, or a window is not an integer.
    """

    keep = 10_000  # more than the batches of a COCO validation at batch size 1, whose mean time is logged
    points = 1_024

    def __init__(self, log_history: Sequence[float] = (), count_history: Sequence[float] = ()) -> None:
        self._set_default_statistics()
        self._values: np.ndarray = np.empty(0)  # capacity, of which the first `_kept` elements are used; so of the counts
        self._counts: np.ndarray = np.empty(0)
        self._kept = self._left = 0  # numbers of unmerged and merged entries
        self._stretches = np.empty((len(MERGE), 0))  # the last stretch may be incomplete
        self.stretch = 1  # entries per stretch
        self._is_integer = True  # mmengine's array may be an integer one; the log prints it accordingly
        self.extend(log_history, count_history)
        self._is_integer &= self._kept > 0

    @property
    def number(self) -> int:
        """Number of entries since the start of the run."""
        return self._left + self._kept

    @property
    def max_length(self) -> int:
        """Maximum number of unmerged entries."""
        return self.keep + max(1, self.keep // 8)

    @property
    def _log_history(self) -> np.ndarray:
        values = self._values[: self._kept]
        return values.astype(np.int64) if self._is_integer and self._kept else values

    @property
    def _count_history(self) -> np.ndarray:
        return self._counts[: self._kept]

    @property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Copies of the unmerged values and counts, (N,) each, oldest first."""
        return self._log_history.copy(), self._count_history.copy()

    def update(self, log_val: float, count: float = 1) -> None:
        """Adds an entry; raises TypeError if value or count is not a Python number."""
        if not isinstance(log_val, (int, float)) or not isinstance(count, (int, float)):
            raise TypeError(f'value and count must be int or float, not {type(log_val)} and {type(count)}')
        if self._kept == len(self._values):
            self._make_room()
        self._values[self._kept] = log_val
        self._counts[self._kept] = count
        self._kept += 1
        if self._is_integer:
            self._is_integer = isinstance(log_val, int) and abs(log_val) <= LARGEST_INTEGER

    def extend(self, values: Sequence[float], counts: Sequence[float]) -> None:
        """Adds (N,) values and counts, like N updates; raises ValueError if their numbers differ."""
        more, times = np.asarray(values), np.asarray(counts, np.float64)
        if more.shape != times.shape or more.ndim != 1:
            raise ValueError(f'{more.shape} values and {times.shape} counts: both must be 1-D and of the same length')
        if len(more):
            self._is_integer &= more.dtype.kind in 'biu' and bool(np.abs(more).max() <= LARGEST_INTEGER)
        start = 0
        while start < len(more):
            if self._kept == len(self._values):
                self._make_room()
            end = min(len(more), start + len(self._values) - self._kept)
            taken = slice(self._kept, self._kept + end - start)
            self._values[taken], self._counts[taken] = more[start:end], times[start:end]
            self._kept, start = taken.stop, end

    def _make_room(self) -> None:
        """Doubles the capacity up to ``max_length``, then merges the oldest entries."""
        if len(self._values) < self.max_length:
            more = min(max(64, len(self._values)), self.max_length - len(self._values))
            self._values, self._counts = (np.pad(part, (0, more)) for part in (self._values, self._counts))
        else:
            self._leave(self._kept - self.keep)

    def _leave(self, number: int) -> None:
        """Merges the oldest entries into stretches, and moves the others to the front."""
        self._stretches = self._joined(number)
        for part in (self._values, self._counts):
            part[: self._kept - number] = part[number : self._kept]
        self._left, self._kept = self._left + number, self._kept - number
        while self.number > self.points * self.stretch:
            self._stretches, self.stretch = in_pairs(self._stretches), 2 * self.stretch

    def _joined(self, number: int) -> np.ndarray:
        """(4, M) stretches including the ``number`` oldest unmerged entries."""
        values, counts = self._values[:number], self._counts[:number]
        complete, rest = divmod(self._left, self.stretch)
        tail = np.hstack((self._stretches[:, complete:], np.stack((values, counts, values, values))))
        second = 1 + self.stretch - rest if rest else self.stretch  # where the second stretch of the tail starts
        starts = np.concatenate(([0], np.arange(second, tail.shape[1], self.stretch)))[: tail.shape[1]]
        return np.hstack((self._stretches[:, :complete], merged(tail, starts)))

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """The full run in at most ``points`` equal stretches, of which the last may be incomplete.

        Returns:
            (M,) number of entries up to the end of each stretch, and (M,) means.
        """
        stretches, length = self._joined(self._kept), self.stretch
        while stretches.shape[1] > self.points:
            stretches, length = in_pairs(stretches), 2 * length
        ends = np.minimum(np.arange(1, stretches.shape[1] + 1) * length, self.number)
        return ends, stretches[0] / stretches[1]

    def _older(self, window_size: int | None) -> np.ndarray:
        """(4, M) stretches that overlap the window; empty if it covers only unmerged entries."""
        if window_size is not None and (not isinstance(window_size, int) or window_size < 0):
            raise ValueError(f'window_size={window_size} must be an integer of at least 0, or None for all entries')
        first = max(0, self.number - window_size) if window_size else 0  # as in mmengine, 0 means all entries
        return self._stretches[:, first // self.stretch if first < self._left else self._stretches.shape[1] :]

    def mean(self, window_size: int | None = None) -> np.ndarray:
        """Sum of the newest ``window_size`` values divided by that of their counts; of all entries by default."""
        older = self._older(window_size)
        if not older.size:
            return super().mean(window_size)
        return (older[0].sum() + self._log_history.sum()) / (older[1].sum() + self._count_history.sum())

    def max(self, window_size: int | None = None) -> np.ndarray:
        """Maximum of the newest ``window_size`` values; of all entries by default."""
        older = self._older(window_size)
        if not older.size:
            return super().max(window_size)
        newest = self._log_history.max()
        return np.maximum(older[3].max(), newest).astype(newest.dtype)

    def min(self, window_size: int | None = None) -> np.ndarray:
        """Minimum of the newest ``window_size`` values; of all entries by default."""
        older = self._older(window_size)
        if not older.size:
            return super().min(window_size)
        newest = self._log_history.min()
        return np.minimum(older[2].min(), newest).astype(newest.dtype)

    def statistics(self, method_name: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a registered method by name; raises KeyError if there is none."""
        # mmengine's registered methods would ignore merged entries.
        if method_name in ('mean', 'max', 'min', 'current'):
            return getattr(self, method_name)(*args, **kwargs)
        return super().statistics(method_name, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, 'statistics_methods': dict(self._statistics_methods)}

    def plain(self) -> dict[str, Any]:
        """The full state as tensors and numbers that share no memory with it."""
        return {
            'values': torch.tensor(self._values[: self._kept]),
            'counts': torch.tensor(self._counts[: self._kept]),
            'whole': self._is_integer,
            'stretches': torch.tensor(self._stretches),
            'stretch': self.stretch,
            'left': self._left,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> BoundedHistory:
        """The inverse of :meth:`plain`."""
        history = cls()
        history._values, history._counts, history._stretches = (
            plain[name].numpy().copy() for name in ('values', 'counts', 'stretches')
        )
        history._kept, history._left = len(history._values), plain['left']
        history.stretch, history._is_integer = plain['stretch'], plain['whole']
        return history


class BoundedHistories(OrderedDict):
    """Histories by name; converts mmengine's ``HistoryBuffer`` to :class:`BoundedHistory` on assignment."""

    def __setitem__(self, name: str, history: HistoryBuffer) -> None:
        super().__setitem__(name, bounded(history))


def bounded(history: HistoryBuffer) -> HistoryBuffer:
    """A :class:`BoundedHistory` with the same entries; other subclasses of ``HistoryBuffer`` are returned unchanged."""
    return BoundedHistory(*history.data) if type(history) is HistoryBuffer else history


def bound_histories(hub: MessageHub) -> None:
    """Bounds the existing and future histories of a hub, which creates a plain buffer for each new name."""
    if not isinstance(hub._log_scalars, BoundedHistories):
        hub._log_scalars = BoundedHistories(hub._log_scalars)


def merged(stretches: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Merges (4, N) stretches into (4, M), each from one start to the next."""
    return np.stack([merge.reduceat(row, starts) for merge, row in zip(MERGE, stretches, strict=True)])


def in_pairs(stretches: np.ndarray) -> np.ndarray:
    """Merges (4, N) stretches in pairs into (4, ceil(N / 2)); an odd last one stays single."""
    return merged(stretches, np.arange(0, stretches.shape[1], 2))
