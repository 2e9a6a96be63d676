"""What is wrong with a config, and where that is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from mmengine.logging import print_log


class ConfigError(ValueError):
    """A config names components or arguments that do not exist, or settings that cannot work."""


class Finding(NamedTuple):
    """``text``: the keys, what is wrong, and the way out. ``fatal``: the run cannot do what the config says.

    ``cause``: the error that was met, if there was one.
    """

    text: str
    fatal: bool = True
    cause: Exception | None = None


def report(findings: Iterable[Finding]) -> None:
    """Logs findings as warnings, a line each."""
    for finding in findings:
        print_log(finding.text, 'current', logging.WARNING)


def refusals(prefix: str, check: Callable, *values: Any) -> Iterator[Finding]:
    """The ValueError with which ``check(*values)`` refuses them, if it does: what a constructor checks is stated there."""
    try:
        check(*values)
    except ValueError as error:
        yield Finding(f'{prefix}{error}')
