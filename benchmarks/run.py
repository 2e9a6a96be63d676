"""All benchmarks of the CPU, one after the other, and the table of their figures: ``make bench``.

Each runs in a process of its own and writes ``benchmarks/out/<name>.json``; the table goes between the markers of
``docs/performance.md``. On a machine with a GPU the steps run there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from common import OUT, Row, format_row

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / 'docs' / 'performance.md'
NAMES = (
    *('loader', 'photometric', 'attention', 'resolutions', 'loss_memory', 'step', 'guards', 'history'),
    *('collectives', 'knn', 'dense', 'scale', 'end_to_end', 'limits'),
)
START, END = '<!-- figures: written by benchmarks/run.py -->', '<!-- end of figures -->'


def run(name: str) -> None:
    """One benchmark, its output passed on.

    Raises:
        SystemExit: It failed.
    """
    start = time.perf_counter()
    done = subprocess.run([sys.executable, str(HERE / f'{name}.py')], check=False)
    if done.returncode:
        raise SystemExit(f'benchmarks/{name}.py failed')
    print(f'({name}: {time.perf_counter() - start:.0f} s)\n', flush=True)


def section(record: dict) -> list[str]:
    """Lines of Markdown for the figures of a benchmark."""
    settings = ', '.join(f'{key} {value}' for key, value in record['settings'].items() if value not in ('', False))
    machine = record['machine']
    lines = [
        f'### `python benchmarks/{record["benchmark"]}.py`',
        '',
        f'{machine["device"]}, one thread; Python {machine["python"]}, torch {machine["torch"]}; {settings}.',
        '',
    ]
    lines += ['| | ours | reference | ratio | target | |', '|---|---|---|---|---|---|']
    return [*lines, *(f'| {" | ".join(format_row(Row(**row)))} |' for row in record['rows']), '']


def table() -> str:
    records = [json.loads((OUT / f'{name}.json').read_text()) for name in NAMES if (OUT / f'{name}.json').exists()]
    return '\n'.join([START, '', *(line for record in records for line in section(record)), END])


def write_page() -> None:
    """Replaces what stands between the markers of the page."""
    text = PAGE.read_text(encoding='utf-8')
    before, rest = text.split(START)
    PAGE.write_text(before + table() + rest.split(END)[1], encoding='utf-8')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('names', nargs='*', metavar='NAME', help=f'some of them: {", ".join(NAMES)}')
    names = parser.parse_args().names or NAMES
    for name in names:
        if name not in NAMES:
            parser.error(f'no benchmark is called {name!r}: choose from {", ".join(NAMES)}')
        run(name)
    write_page()
    print(f'table written to {PAGE.relative_to(HERE.parent)}')


if __name__ == '__main__':
    main()
