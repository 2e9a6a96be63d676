"""Counts information lost in conversion to 8-bit RGB, over a run and its processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mmengine import dist


class LostAccount:
    """Number of images by kind of lost information, and the first image of each kind.

    Attributes:
        counts: Images by kind, one of the sentence fragments of :mod:`mmadclr.datasets.pixels`.
        first: Name of the first image of each kind.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, lost: Iterable[tuple[str, str]]) -> None:
        """Records the ``lost`` of a batch, pairs of kind and image name."""
        for kind, name in lost:
            self.counts[kind] += 1
            self.first.setdefault(kind, name)

    def of_all_processes(self) -> LostAccount:
        """The sum over processes; collective call."""
        total = LostAccount()
        for counts, first in dist.all_gather_object((dict(self.counts), self.first)):
            total.counts.update(counts)
            total.first = {**first, **total.first}
        return total

    def lines(self) -> list[str]:
        """A sentence for each kind: ``12 images have an alpha channel, which is not used (the first: a.png)``."""
        return [f'{count} images {kind} (the first: {self.first[kind]})' for kind, count in sorted(self.counts.items())]
