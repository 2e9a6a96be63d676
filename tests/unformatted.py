"""Configs as text without yapf, whose layout of them takes most of the time of a run of seconds: for every log, checkpoint
and dump, a third of a second each. The text says the same to Python."""

from yapf.yapflib import yapf_api


def leave_configs_unformatted() -> None:
    """For this process and those forked from it; programs that tests start afresh format as ever."""
    yapf_api.FormatCode = lambda text, **options: (text, True)
