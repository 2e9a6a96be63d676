"""Finds a data set below a folder and checks its layout, before any file is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mmadclr.names import printable


class LayoutError(FileNotFoundError):
    """A data set is missing or incomplete. The message lists all missing parts, the expected tree and the source."""


class Guide(NamedTuple):
    """What a data set looks like on disk.

    ``places``: where it may be, relative to the given folder. ``layouts``: names of layouts, with their required files and
    folders; ``a|b`` means that either is sufficient. ``tree``: all layouts in one line, for messages. ``source``: where to
    download it.
    """

    places: tuple[str, ...]
    layouts: Mapping[str, tuple[str, ...]]
    tree: str
    source: str


class Located(NamedTuple):
    """``base``: folder of the data set. ``layout``: name of its layout."""

    base: Path
    layout: str


def existing(base: Path, part: str) -> Path | None:
    """The first existing one of alternatives ``a|b`` below a folder."""
    return next((base / name for name in part.split('|') if (base / name).exists()), None)


def locate(name: str, root: str | Path, guide: Guide) -> Located:
    """The first complete layout of a data set below a folder.

    Raises:
        LayoutError: There is none; names the missing parts of the most complete one.
    """
    root = Path(root)
    if not root.is_dir():
        raise LayoutError(f'{name}: {printable(root)} is not a folder; {_expected(guide)}')
    candidates = [Located(root / place, layout) for place in guide.places for layout in guide.layouts]
    gaps = {each: [part for part in guide.layouts[each.layout] if existing(each.base, part) is None] for each in candidates}
    for each, missing in gaps.items():
        if not missing:
            return each
    best = min(gaps, key=lambda each: len(gaps[each]) - len(guide.layouts[each.layout]))  # the most parts found
    raise missing_parts(name, best.base if len(gaps[best]) < len(guide.layouts[best.layout]) else root, gaps[best], guide)


def missing_parts(name: str, base: Path, parts: Sequence[str], guide: Guide) -> LayoutError:
    """The error for parts that are not below a folder."""
    named = ', '.join(part.replace('|', ' or ') for part in parts)
    return LayoutError(f'{name}: {printable(base)} has no {named}; {_expected(guide)}')


def _expected(guide: Guide) -> str:
    return f'expected {guide.tree}; get it from {guide.source}'
