"""Types of command-line arguments, which check values before anything is loaded."""

from __future__ import annotations

from argparse import ArgumentTypeError


def positive(text: str) -> int:
    """An integer of 1 or more."""
    return _at_least(1, text)


def natural(text: str) -> int:
    """An integer of 0 or more."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise ArgumentTypeError(f'{text!r} is not an integer of {least} or more')
    return int(text)
