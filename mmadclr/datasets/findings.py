"""Collects findings of a check: the first case of each kind, and the number of others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable


class Findings:
    """Problems, which end a run, and remarks, which are logged.

    A file that lacks a key in one record often lacks it in all; each kind is reported in one line with a count.
    """

    def __init__(self) -> None:
        self._texts: dict[tuple[bool, Hashable], str] = {}
        self._counts: Counter = Counter()

    def problem(self, text: str, kind: Hashable = None) -> None:
        """Adds a problem; ``kind`` is the text itself by default."""
        self._add(True, text, kind)

    def remark(self, text: str, kind: Hashable = None) -> None:
        """Adds a remark; ``kind`` is the text itself by default."""
        self._add(False, text, kind)

    def _add(self, is_problem: bool, text: str, kind: Hashable) -> None:
        key = (is_problem, text if kind is None else kind)
        self._texts.setdefault(key, text)
        self._counts[key] += 1

    def update(self, other: Findings) -> None:
        """Adds the findings of another check."""
        self._texts = {**self._texts, **other._texts}
        self._counts += other._counts

    @property
    def problems(self) -> list[str]:
        """One line per kind of problem."""
        return self._lines(True)

    @property
    def remarks(self) -> list[str]:
        """One line per kind of remark."""
        return self._lines(False)

    def _lines(self, is_problem: bool) -> list[str]:
        counted = ((text, self._counts[key]) for key, text in self._texts.items() if key[0] is is_problem)
        return [text if count == 1 else f'{text} (and {count - 1} more like it)' for text, count in counted]
