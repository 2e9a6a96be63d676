"""Types of command-line arguments, which check values before anything is loaded."""

from __future__ import annotations

import re
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


def duration(text: str) -> int:
    """Seconds, from ``90``, ``45s``, ``30m``, ``2h`` or ``1h30m``."""
    match = re.fullmatch(r'(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?', text.strip())
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise ArgumentTypeError(f'{text!r} is not a duration such as 2h, 45m, 1h30m or 90s')
    return total
