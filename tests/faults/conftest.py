"""Starts trainings that are dead at the end of the test, whatever happens in it, and keeps the record of the faults."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from injection import Training, start
from reliability import Record, write_report

RECORDS: list[Record] = []


@pytest.fixture
def training(tmp_path):
    """``start`` of :mod:`injection` below ``tmp_path``."""
    started: list[Training] = []

    def run(*options: str, **kwargs) -> Training:
        started.append(start(tmp_path, *options, **kwargs))
        return started[-1]

    yield run
    for each in started:
        each.kill()


@pytest.fixture
def record_fault() -> Callable[..., None]:
    """To be called at the end of a test: ``record_fault(fault, how it was injected, what happened, times=1)``."""

    if os.environ.get('RELIABILITY_REPORT') and 'PYTEST_XDIST_WORKER' in os.environ:
        pytest.fail('the report is written by the process that has run all tests: leave out -n')

    def record(fault: str, injected: str, outcome: str, times: int = 1) -> None:
        RECORDS.append(Record(fault, injected, outcome, times))

    return record


def pytest_terminal_summary(terminalreporter) -> None:
    """With ``RELIABILITY_REPORT=docs``, writes the report into that folder."""
    folder = os.environ.get('RELIABILITY_REPORT')
    if folder and RECORDS:
        stats = terminalreporter.stats
        write_report(RECORDS, len(stats.get('passed', [])), len(stats.get('failed', [])), Path(folder))
