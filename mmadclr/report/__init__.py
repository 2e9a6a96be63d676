"""A report on runs: one HTML file about what ran and how good it is."""

from __future__ import annotations

from typing import Any

__all__ = ['write_report']


def __getattr__(name: str) -> Any:
    """Imports on first use: ``mmadclr watch`` reads the files of runs without torch."""
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from mmadclr.report.write import write_report

    return write_report
