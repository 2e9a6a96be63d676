"""What is lost of images on the way to 8-bit RGB, counted over a run and over processes, and said once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mmengine import dist


class LostAccount:
    """How many images lost what, and the first of each kind.

    Attributes:
        counts: Images by what they lost, one of the half sentences of :mod:`mmadclr.datasets.pixels`.
        first: Name of the first of them.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, lost: Iterable[tuple[str, str]]) -> None:
        """Takes note of the ``lost`` of a batch, pairs of what and which image."""
        for kind, name in lost:
            self.counts[kind] += 1
            self.first.setdefault(kind, name)

    def of_all_processes(self) -> LostAccount:
        """The sum; to be called on all processes."""
        whole = LostAccount()
        for counts, first in dist.all_gather_object((dict(self.counts), self.first)):
            whole.counts.update(counts)
            whole.first = {**first, **whole.first}
        return whole

    def lines(self) -> list[str]:
        """A sentence for each kind: ``12 images have an alpha channel, which is not used (the first: a.png)``."""
        return [f'{count} images {kind} (the first: {self.first[kind]})' for kind, count in sorted(self.counts.items())]
