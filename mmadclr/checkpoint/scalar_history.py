"""Histories of logged scalars that stay small and fast however long a run is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MessageHub

LARGEST_WHOLE = 2**53  # up to here float64 holds every whole number
MERGE = (np.add, np.add, np.minimum, np.maximum)  # of the rows of stretches: sum, sum of counts, minimum, maximum


class BoundedHistory(HistoryBuffer):
    """mmengine's ``HistoryBuffer`` in bounded room: the newest entries one by one, and older ones in stretches.

    ``HistoryBuffer`` copies itself in every update, up to 16 MB at a million entries. Here at least the newest ``keep``
    entries are kept as they are, at most ``max_length``. When there is no room, the oldest leave for equally long stretches,
    of which a sum, the sum of counts, a minimum and a maximum remain. The length of stretches is a power of two, doubled
    whenever the whole history would be more than ``points`` of them. All of it depends on the entries alone, not on when
    they were saved and loaded.

    ``mean``, ``max`` and ``min`` are equal to those of ``HistoryBuffer``, to the bit, for windows within the entries that
    are kept. For windows of everything, ``max`` and ``min`` are exact and ``mean`` is, up to rounding; ``HistoryBuffer``
    forgets what is older than a million entries, this does not. A window in between begins with the stretch its first entry
    lies in, so up to ``stretch`` - 1 entries earlier. ``data``, and methods of ``register_statistics`` that read
    ``_log_history``, see the entries that are kept.

    Args:
        log_history: (N,) values.
        count_history: (N,) their counts.

    Raises:
        ValueError: There are not as many counts as values, or a window is no whole number.
    """

    keep = 10_000  # more than the batches of a validation of COCO one by one, whose mean time is logged
    points = 1_024

    def __init__(self, log_history: Sequence[float] = (), count_history: Sequence[float] = ()) -> None:
        self._set_default_statistics()
        self._values, self._counts = np.empty(0), np.empty(0)  # room, of which the first `_kept` places are taken
        self._kept = self._left = 0  # entries that are here one by one, and in stretches
        self._stretches = np.empty((len(MERGE), 0))  # the last one may be incomplete
        self.stretch = 1  # entries in a stretch
        self._whole = True  # as mmengine's array, which begins as one of integers or not; the log prints them as such
        self.extend(log_history, count_history)
        self._whole &= self._kept > 0

    @property
    def number(self) -> int:
        """Entries since the start of the run."""
        return self._left + self._kept

    @property
    def max_length(self) -> int:
        """Entries that are kept one by one, at most."""
        return self.keep + max(1, self.keep // 8)

    @property
    def _log_history(self) -> np.ndarray:
        values = self._values[: self._kept]
        return values.astype(np.int64) if self._whole and self._kept else values

    @property
    def _count_history(self) -> np.ndarray:
        return self._counts[: self._kept]

    @property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Copies of the newest values and counts, (N,) each, oldest first."""
        return self._log_history.copy(), self._count_history.copy()

    def update(self, log_val: float, count: float = 1) -> None:
        """Adds an entry; a TypeError if value or count is no number of Python."""
        if not isinstance(log_val, (int, float)) or not isinstance(count, (int, float)):
            raise TypeError(f'value and count must be int or float, not {type(log_val)} and {type(count)}')
        if self._kept == len(self._values):
            self._make_room()
        self._values[self._kept] = log_val
        self._counts[self._kept] = count
        self._kept += 1
        if self._whole:
            self._whole = isinstance(log_val, int) and abs(log_val) <= LARGEST_WHOLE

    def extend(self, values: Sequence[float], counts: Sequence[float]) -> None:
        """Adds (N,) values and counts; the result is that of N updates. A ValueError if their numbers differ."""
        values, counts = np.asarray(values), np.asarray(counts, np.float64)
        if values.shape != counts.shape or values.ndim != 1:
            raise ValueError(f'{values.shape} values and {counts.shape} counts: both must be one row of the same length')
        if len(values):
            self._whole &= values.dtype.kind in 'biu' and bool(np.abs(values).max() <= LARGEST_WHOLE)
        start = 0
        while start < len(values):
            if self._kept == len(self._values):
                self._make_room()
            end = min(len(values), start + len(self._values) - self._kept)
            taken = slice(self._kept, self._kept + end - start)
            self._values[taken], self._counts[taken] = values[start:end], counts[start:end]
            self._kept, start = taken.stop, end

    def _make_room(self) -> None:
        """Doubles the room up to ``max_length``; from then on, lets the oldest entries leave."""
        if len(self._values) < self.max_length:
            more = min(max(64, len(self._values)), self.max_length - len(self._values))
            self._values, self._counts = (np.pad(part, (0, more)) for part in (self._values, self._counts))
        else:
            self._leave(self._kept - self.keep)

    def _leave(self, number: int) -> None:
        """Puts the oldest entries into stretches, and moves the others to the front."""
        self._stretches = self._joined(number)
        for part in (self._values, self._counts):
            part[: self._kept - number] = part[number : self._kept]
        self._left, self._kept = self._left + number, self._kept - number
        while self.number > self.points * self.stretch:
            self._stretches, self.stretch = in_pairs(self._stretches), 2 * self.stretch

    def _joined(self, number: int) -> np.ndarray:
        """(4, M) stretches with the ``number`` oldest entries added."""
        values, counts = self._values[:number], self._counts[:number]
        complete, rest = divmod(self._left, self.stretch)
        tail = np.hstack((self._stretches[:, complete:], np.stack((values, counts, values, values))))
        second = 1 + self.stretch - rest if rest else self.stretch  # where the second stretch of the tail starts
        starts = np.concatenate(([0], np.arange(second, tail.shape[1], self.stretch)))[: tail.shape[1]]
        return np.hstack((self._stretches[:, :complete], merged(tail, starts)))

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """The whole run in at most ``points`` equal stretches, of which the last may be incomplete.

        Returns:
            (M,) numbers of entries up to the end of each stretch, and (M,) means.
        """
        stretches, length = self._joined(self._kept), self.stretch
        while stretches.shape[1] > self.points:
            stretches, length = in_pairs(stretches), 2 * length
        ends = np.minimum(np.arange(1, stretches.shape[1] + 1) * length, self.number)
        return ends, stretches[0] / stretches[1]

    def _older(self, window_size: int | None) -> np.ndarray:
        """(4, M) stretches a window reaches into; none if it lies within the entries that are kept."""
        if window_size is not None and (not isinstance(window_size, int) or window_size < 0):
            raise ValueError(f'a window of {window_size} entries: give a whole number, or None for everything')
        first = max(0, self.number - window_size) if window_size else 0  # mmengine takes 0 for everything, too
        return self._stretches[:, first // self.stretch if first < self._left else self._stretches.shape[1] :]

    def mean(self, window_size: int | None = None) -> np.ndarray:
        """Sum of the newest ``window_size`` values over that of their counts; of everything by default."""
        older = self._older(window_size)
        if not older.size:
            return super().mean(window_size)
        return (older[0].sum() + self._log_history.sum()) / (older[1].sum() + self._count_history.sum())

    def max(self, window_size: int | None = None) -> np.ndarray:
        """Maximum of the newest ``window_size`` values; of everything by default."""
        older = self._older(window_size)
        if not older.size:
            return super().max(window_size)
        newest = self._log_history.max()
        return np.maximum(older[3].max(), newest).astype(newest.dtype)

    def min(self, window_size: int | None = None) -> np.ndarray:
        """Minimum of the newest ``window_size`` values; of everything by default."""
        older = self._older(window_size)
        if not older.size:
            return super().min(window_size)
        newest = self._log_history.min()
        return np.minimum(older[2].min(), newest).astype(newest.dtype)

    def statistics(self, method_name: str, *args: Any, **kwargs: Any) -> Any:
        """A registered method by its name; a KeyError if there is none."""
        # Among the registered ones are mmengine's, which would miss what is in stretches.
        if method_name in ('mean', 'max', 'min', 'current'):
            return getattr(self, method_name)(*args, **kwargs)
        return super().statistics(method_name, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, 'statistics_methods': dict(self._statistics_methods)}

    def plain(self) -> dict[str, Any]:
        """All of it as tensors and numbers, none of which shares memory with it."""
        return {
            'values': torch.tensor(self._values[: self._kept]),
            'counts': torch.tensor(self._counts[: self._kept]),
            'whole': self._whole,
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
        history.stretch, history._whole = plain['stretch'], plain['whole']
        return history


class BoundedHistories(OrderedDict):
    """Histories by name; mmengine's ``HistoryBuffer`` becomes a :class:`BoundedHistory` when it is put in."""

    def __setitem__(self, name: str, history: HistoryBuffer) -> None:
        super().__setitem__(name, bounded(history))


def bounded(history: HistoryBuffer) -> HistoryBuffer:
    """A :class:`BoundedHistory` with the same entries; other subclasses of ``HistoryBuffer`` stay what they are."""
    return BoundedHistory(*history.data) if type(history) is HistoryBuffer else history


def bound_histories(hub: MessageHub) -> None:
    """Bounds what a hub holds, and what it will hold: it makes a plain buffer for a name it does not know."""
    if not isinstance(hub._log_scalars, BoundedHistories):
        hub._log_scalars = BoundedHistories(hub._log_scalars)


def merged(stretches: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(4, M) stretches of (4, N): from each start up to the next one."""
    return np.stack([merge.reduceat(row, starts) for merge, row in zip(MERGE, stretches, strict=True)])


def in_pairs(stretches: np.ndarray) -> np.ndarray:
    """(4, ceil(N / 2)) stretches of (4, N), two and two; an odd last one stays alone."""
    return merged(stretches, np.arange(0, stretches.shape[1], 2))
