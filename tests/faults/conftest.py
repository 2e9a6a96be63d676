"""Starts trainings that are dead at the end of the test, whatever happens in it, and keeps the record of the faults."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from forking import fork
from injection import Training, start
from reliability import REPORT, Record, write_report

RECORDS: list[Record] = []


@pytest.fixture
def training(tmp_path):
    """``start`` of :mod:`injection` below ``tmp_path``.

    Unless a report is to be written, a process alone is forked, and so are several that are ``forked``: where
    nothing depends on torchrun.
    """
    started: list[Training] = []

    def run(*options: str, forked: bool = False, **kwargs) -> Training:
        plain = kwargs.get('processes', 1) == 1 and not kwargs.keys() & {'torchrun', 'prefix', 'program'}
        begin = fork if (plain or forked) and not REPORT else start
        started.append(begin(tmp_path, *options, **kwargs))
        return started[-1]

    yield run
    for each in started:
        each.kill()


@pytest.fixture
def record_fault() -> Callable[..., None]:
    """To be called at the end of a test: ``record_fault(fault, how it was injected, what happened, times=1)``."""

    if REPORT and 'PYTEST_XDIST_WORKER' in os.environ:
        pytest.fail('the report is written by the process that has run all tests: leave out -n')

    def record(fault: str, injected: str, outcome: str, times: int = 1) -> None:
        RECORDS.append(Record(fault, injected, outcome, times))

    return record


def pytest_terminal_summary(terminalreporter) -> None:
    """With ``RELIABILITY_REPORT=docs``, writes the report into that folder."""
    if REPORT and RECORDS:
        stats = terminalreporter.stats
        write_report(RECORDS, len(stats.get('passed', [])), len(stats.get('failed', [])), Path(REPORT))
