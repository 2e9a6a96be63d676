"""Problems found in a config, and how they are reported."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from mmengine.logging import print_log


class ConfigError(ValueError):
    """A config has unknown components or arguments, or invalid settings."""


class Finding(NamedTuple):
    """``text``: the keys, the problem, and the fix. ``fatal``: the run cannot do what the config specifies.

    ``cause``: the original error, if any.
    """

    text: str
    fatal: bool = True
    cause: Exception | None = None


def report(findings: Iterable[Finding]) -> None:
    """Logs each finding as a warning."""
    for finding in findings:
        print_log(finding.text, 'current', logging.WARNING)


def refusals(prefix: str, check: Callable, *values: Any) -> Iterator[Finding]:
    """A finding for the ValueError of ``check(*values)``, if any, which reuses the checks of a constructor."""
    try:
        check(*values)
    except ValueError as error:
        yield Finding(f'{prefix}{error}')
