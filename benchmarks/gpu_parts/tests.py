"""The tests that need a GPU, each result on disk as soon as it is known."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gpu_parts.context import Context

NEEDS_GPU = True
TITLE = 'Tests'
ROW = 'pytest -m gpu'
CLONE = Path(__file__).resolve().parents[2]
PROCESSES = 4  # compiling takes most of the time, and none of the GPU
RESULTS = 'GPU_TEST_RESULTS'  # environment variable: the file of results


def run(context: Context) -> None:
    files = ['tests/test_gpu.py'] if context.smoke else files_with_gpu_tests()
    command = [sys.executable, '-m', 'pytest', '-m', 'gpu', '-q', '--tb=short', '-p', 'no:cacheprovider', '-o', 'addopts=']
    processes = 1 if context.smoke else min(PROCESSES, (os.cpu_count() or 1) // 2)
    if processes > 1 and importlib.util.find_spec('xdist'):
        command += ['-n', str(processes)]
    store(context, *run_tests(context, [*command, '-p', 'gpu_parts.tests', *files]))


def run_tests(context: Context, command: list[str]) -> tuple[list[dict[str, str]], bool]:
    """Results of a command of pytest, and whether it came to its end in time."""
    file = context.folder / f'.tests.{os.getpid()}.jsonl'
    path = os.pathsep.join([str(CLONE / 'benchmarks'), os.environ.get('PYTHONPATH', '')])
    environment = os.environ | {RESULTS: str(file), 'PYTHONPATH': path, 'COLUMNS': '200'}
    with (context.folder / 'gpu.log').open('a') as log:
        process = subprocess.Popen(command, cwd=CLONE, env=environment, stdout=log, stderr=log)
        while process.poll() is None and context.left() > 0:
            store(context, results_of(file), ended=False)
            time.sleep(0.5)
        ended = process.poll() is not None
        for number in () if ended else (signal.SIGINT, signal.SIGKILL):
            process.send_signal(number)
            time.sleep(3)
        code = process.wait()
    results = results_of(file)
    file.unlink(missing_ok=True)
    return results, ended and code in (0, 1)


def files_with_gpu_tests() -> list[str]:
    """Other files are not even imported, which takes longer than the tests."""
    paths = sorted((CLONE / 'tests').rglob('test_*.py'))
    found = [path.relative_to(CLONE) for path in paths if 'mark.gpu' in path.read_text(encoding='utf-8')]
    return [str(path) for path in found if path.parts[1] != 'benchmarks']


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """As a plugin of pytest: tests that compile, which take longest, come last; first if there are several processes."""
    last = not hasattr(config, 'workerinput')
    items.sort(key=lambda item: ('compiled' in item.name) == last)


def pytest_configure(config: pytest.Config) -> None:
    """As a plugin of pytest: reports are written by the process that distributes tests, which gets those of all."""
    if not hasattr(config, 'workerinput'):
        config.pluginmanager.register(Reports())


class Reports:
    """A line for every test that has run, with the last line of its error."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == 'call' or not report.passed:
            write_report(report)


def write_report(report: pytest.TestReport) -> None:
    reason = '' if report.passed else str(report.longreprtext).strip().splitlines()[-1:]
    outcome = report.outcome if report.when == 'call' or report.skipped else 'error'
    with open(os.environ[RESULTS], 'a') as file:
        file.write(json.dumps({'test': report.nodeid, 'outcome': outcome, 'reason': ''.join(reason)[:300]}) + '\n')


def results_of(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def store(context: Context, results: list[dict[str, str]], ended: bool) -> None:
    outcomes = [result['outcome'] for result in results]
    row: dict[str, Any] = {name: outcomes.count(name) for name in ('passed', 'failed', 'error', 'skipped')}
    row['failures'] = {r['test']: r['reason'] for r in results if r['outcome'] in ('failed', 'error')}
    if not ended or not results:
        row['cut'] = 'the time was over, or pytest died; see gpu.log'
    context.record.part(context.part)['rows'][ROW] = row
    context.record.save()
    if ended:
        context.add(ROW, **row)


def section(rows: dict[str, dict[str, Any]]) -> list[str]:
    row = rows[ROW]
    counts = ', '.join(f'{row[name]} {name}' for name in ('passed', 'failed', 'error', 'skipped') if row[name])
    lines = [f'`{ROW}`: {counts or "no result"}{"; " + row["cut"] if "cut" in row else ""}.', '']
    return [*lines, *(f'* `{name}`: {reason}' for name, reason in row['failures'].items())]
