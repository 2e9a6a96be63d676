"""Counts unreadable images, and information lost in conversion to 8-bit RGB, over a run and its processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

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


class UnreadableAccount:
    """Which images could not be read.

    Attributes:
        seen: Messages, one for each image, since the start or the resumption.
        in_epoch: The same since :meth:`start_epoch`.
        untold: Those that are not shared with the other processes yet.
    """

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.in_epoch: set[str] = set()
        self.untold: set[str] = set()

    def start_epoch(self) -> None:
        self.in_epoch = set()

    def add(self, messages: Iterable[str]) -> None:
        """Records the ``unreadable`` of a batch."""
        self.untold.update(one_line(message) for message in messages)

    def share(self) -> list[str]:
        """Shares messages with all processes, and returns the new ones, sorted; collective call."""
        everywhere = set().union(*dist.all_gather_object(self.untold))
        self.untold = set()
        self.in_epoch |= everywhere
        new = sorted(everywhere - self.seen)
        self.seen |= everywhere
        return new


class ListFile:
    """A text file of a work dir; each line is added only once, even if the run is restarted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = set(path.read_text('utf-8', 'replace').splitlines()) if path.exists() else set()

    def add(self, lines: Sequence[str]) -> None:
        """Adds lines that the file does not contain yet.

        Raises:
            OSError: The file cannot be written; the lines are not tried again.
        """
        new = [line for line in lines if line not in self.lines]
        self.lines.update(new)
        append(self.path, new)


def append(path: Path, lines: Sequence[str]) -> None:
    """Appends lines in one write, so that a killed process leaves no partial line."""
    with path.open('ab', buffering=0) as file:
        file.write(''.join(f'{line}\n' for line in lines).encode(errors='backslashreplace'))


def one_line(message: str) -> str:
    return ' '.join(line.strip() for line in message.splitlines() if line.strip())
