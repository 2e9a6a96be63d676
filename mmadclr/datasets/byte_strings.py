"""Compact storage of many short byte strings, such as image names, in two arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np

CHUNK = 1 << 20  # strings selected at a time


class ByteStrings(Sequence[bytes]):
    """Strings concatenated in one array, with their start offsets: one long string does not widen the others.

    Worker processes share the memory of both arrays, whereas a million objects would be copied with their reference counts;
    both may be memory-mapped.

    Args:
        data: (B,) uint8, all strings without separators.
        starts: (N + 1,) int64, ascending: string i is ``data[starts[i]:starts[i + 1]]``.

    Raises:
        ValueError: The arrays are inconsistent.
    """

    def __init__(self, data: np.ndarray, starts: np.ndarray) -> None:
        if len(starts) < 1 or starts[0] != 0 or starts[-1] != len(data):
            raise ValueError(f'{len(starts)} starts do not match {len(data)} bytes of strings')
        self.data, self.starts = data, starts

    @classmethod
    def of(cls, strings: Iterable[bytes]) -> ByteStrings:
        strings = list(strings)
        starts = np.zeros(len(strings) + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, strings), np.int64, len(strings)), out=starts[1:])
        return cls(np.frombuffer(b''.join(strings), dtype=np.uint8), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]  # no slices: ``take`` gives several
        if not -len(self) <= index < len(self):
            raise IndexError(f'index {index} is out of range for {len(self)} strings')
        index %= len(self)
        return self.data[self.starts[index] : self.starts[index + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        data, starts = self.data.data, self.starts
        for first in range(0, len(self), CHUNK):
            bounds = starts[first : first + CHUNK + 1].tolist()
            yield from (data[a:b].tobytes() for a, b in pairwise(bounds))

    def take(self, indices: np.ndarray) -> ByteStrings:
        """The strings ``indices`` (n,), in that order."""
        lengths = np.diff(self.starts)[indices]
        starts = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=starts[1:])
        data = np.empty(starts[-1], dtype=np.uint8)
        for first in range(0, len(lengths), CHUNK):
            rows = slice(first, first + CHUNK)
            shift = np.repeat(self.starts[indices[rows]] - starts[:-1][rows], lengths[rows])
            low, high = starts[first], starts[min(first + CHUNK, len(lengths))]
            data[low:high] = self.data[np.arange(low, high) + shift]
        return ByteStrings(data, starts)
