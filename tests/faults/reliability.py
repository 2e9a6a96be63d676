"""The record of the fault tests: every fault that was injected and what came of it, as JSON and as the table of the docs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# Folder of the report, if one is to be written: then every start is a real one, and all combinations are tried, often.
REPORT = os.environ.get('RELIABILITY_REPORT')
BEGIN, END = '<!-- faults: written by make reliability -->', '<!-- end of faults -->'


class Record(NamedTuple):
    """One line of the table. ``times``: how often the fault was injected and the outcome checked."""

    fault: str
    injected: str
    outcome: str
    times: int


def table(records: Sequence[Record]) -> str:
    rows = [f'| {r.fault} | {r.injected} | {r.outcome} | {r.times} |' for r in records]
    return '\n'.join(('| fault | how it was injected | what happened | times |', '|---|---|---|---|', *rows))


def write_report(records: Sequence[Record], passed: int, failed: int, folder: Path) -> None:
    """Writes ``reliability.json`` and the table between the marks of ``reliability.md`` in a folder."""
    content = {'tests passed': passed, 'tests failed': failed, 'faults': [record._asdict() for record in records]}
    (folder / 'reliability.json').write_text(json.dumps(content, indent=1) + '\n')
    page = folder / 'reliability.md'
    before, _, rest = page.read_text().partition(BEGIN)
    summary = f'{passed} tests passed, {failed} failed; {sum(record.times for record in records)} faults injected.'
    page.write_text(f'{before}{BEGIN}\n{summary}\n\n{table(records)}\n{END}{rest.partition(END)[2]}')
