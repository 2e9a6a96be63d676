"""The tests that need a GPU, each result as soon as pytest has printed it."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from gpu_parts.context import Context

NEEDS_GPU = True
TITLE = 'Tests'
CLONE = Path(__file__).resolve().parents[2]
RESULT = re.compile(r'^(tests/\S+\.py::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b')
REASON = re.compile(r'^(?:FAILED|ERROR) (tests/\S+\.py::.+?) - (.+)$')


def run(context: Context) -> None:
    files = ['tests/test_gpu.py'] if context.smoke else files_with_gpu_tests()
    command = [sys.executable, '-m', 'pytest', '-m', 'gpu', '-v', '--tb=short', '-p', 'no:cacheprovider', '-o', 'addopts=']
    process = subprocess.Popen([*command, *files], cwd=CLONE, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    timer = threading.Timer(max(1, context.left()), process.kill)
    timer.start()
    results: dict[str, str] = {}
    failures: dict[str, str] = {}
    with (context.folder / 'gpu.log').open('a') as log:
        for line in process.stdout:
            log.write(line)
            if found := RESULT.match(line):
                results[found[1]] = found[2].lower()
                store(context, results, failures, ended=False)
            elif found := REASON.match(line):
                failures[found[1]] = found[2].strip()
    code = process.wait()
    timer.cancel()
    store(context, results, failures, ended=code >= 0)


def files_with_gpu_tests() -> list[str]:
    """Other files are not even imported, which takes longer than the tests."""
    paths = sorted((CLONE / 'tests').rglob('test_*.py'))
    return [str(path.relative_to(CLONE)) for path in paths if 'mark.gpu' in path.read_text(encoding='utf-8')]


def store(context: Context, results: dict[str, str], failures: dict[str, str], ended: bool) -> None:
    counts = {name: list(results.values()).count(name) for name in ('passed', 'failed', 'error', 'skipped')}
    broken = {name: failures.get(name, '') for name, result in results.items() if result in ('failed', 'error')}
    problem = {} if ended and results else {'cut': 'the time was over, or pytest died; see gpu.log'}
    row = {**counts, 'failures': broken, **problem}
    context.record.part(context.part)['rows']['pytest -m gpu'] = row
    context.record.save()
    if ended:
        context.add('pytest -m gpu', **row)


def section(rows: dict[str, dict[str, Any]]) -> list[str]:
    row = rows['pytest -m gpu']
    counts = ', '.join(f'{row[name]} {name}' for name in ('passed', 'failed', 'error', 'skipped') if row[name])
    lines = [f'`pytest -m gpu`: {counts or "no result"}{"; " + row["cut"] if "cut" in row else ""}.', '']
    return [*lines, *(f'* `{name}`: {reason}' for name, reason in row['failures'].items())]
