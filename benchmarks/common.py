"""What the benchmarks share: interleaved timing, exact counts of a call, and one format for their figures.

A figure is a row: what was measured, ours, the reference form, and the ratio (above 1 is better for us). Rows go to the
terminal and to ``benchmarks/out/<name>.json``, from which ``benchmarks/run.py`` writes the table of ``docs/performance.md``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone that is not installed, too

import torch
from counters import CallCounter
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

OUT = Path(__file__).parent / 'out'
torch.set_num_threads(1)  # the processor time of several would count their waiting for each other


@dataclass
class Row:
    """One figure. ``ratio`` is how many times better ours is; ``spread`` its range over the rounds, where timed."""

    quantity: str
    unit: str
    ours: float | None
    reference: float | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    target: str = ''
    note: str = ''


def count(function: Callable[[], object]) -> CallCounter:
    """Exact counts of one call."""
    with CallCounter() as counter:
        function()
    return counter


def count_flops(function: Callable[[], object]) -> int:
    """Exact FLOPs by torch's counter, which sees attention only in its unfused form."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        function()
    return counter.get_total_flops()


def seconds(function: Callable[[], object], device: str = 'cpu') -> float:
    """Processor time of one call on the CPU; on a GPU wall-clock time from idle to idle."""
    if device == 'cpu':
        start = time.process_time()
        function()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(
    ours: Callable, reference: Callable, rounds: int, device: str = 'cpu'
) -> tuple[float, float, float, list[float]]:
    """Both functions in turn: median seconds of each, and median and sorted list of the ratios reference / ours.

    One unmeasured call of each comes first.
    """
    ours(), reference()
    times = [(seconds(ours, device), seconds(reference, device)) for _ in range(rounds)]
    ratios = sorted(theirs / mine for mine, theirs in times)
    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    return mine, theirs, statistics.median(ratios), ratios


def timed_row(quantity: str, ours: Callable, reference: Callable, rounds: int, device: str = 'cpu', **extra) -> Row:
    """A row of milliseconds a call."""
    mine, theirs, ratio, ratios = compare(ours, reference, rounds, device)
    return Row(quantity, 'ms', mine * 1e3, theirs * 1e3, ratio, (ratios[0], ratios[-1]), **extra)


def counted_row(quantity: str, unit: str, ours: float, reference: float, **extra) -> Row:
    """A row of exact counts; the ratio is left out where ours is zero."""
    return Row(quantity, unit, ours, reference, reference / ours if ours else None, **extra)


def parser(description: str, **defaults) -> argparse.ArgumentParser:
    """An argument parser with one ``--name`` per default and ``--device``."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    result.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    for name, value in defaults.items():
        result.add_argument(f'--{name.replace("_", "-")}', type=type(value), default=value, help=' ')
    return result


def machine(device: str = 'cpu') -> dict[str, str]:
    """Where the figures come from."""
    processor = next(
        (line.split(':')[1].strip() for line in _lines('/proc/cpuinfo') if line.startswith('model name')), platform.machine()
    )
    return {
        'device': torch.cuda.get_device_name() if device == 'cuda' else processor,
        'python': platform.python_version(),
        'torch': torch.__version__,
    }


def report(name: str, rows: list[Row], args: argparse.Namespace) -> None:
    """Prints the rows and writes them to ``benchmarks/out/<name>.json``."""
    OUT.mkdir(exist_ok=True)
    record = dict(benchmark=name, machine=machine(args.device), settings=vars(args), rows=[asdict(row) for row in rows])
    (OUT / f'{name}.json').write_text(json.dumps(record, indent=1) + '\n')
    print(f'{name}: {record["machine"]["device"]}, torch {torch.__version__}')
    print(f'settings: {", ".join(f"{key}={value}" for key, value in vars(args).items())}')
    header = ('', 'ours', 'reference', 'ratio', 'target', '')
    cells = [header, *(format_row(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for row in cells:
        print('  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def format_row(row: Row) -> tuple[str, ...]:
    """Quantity, ours, reference, ratio, target and note as text."""
    ratio = '' if row.ratio is None else f'{row.ratio:.3g}'
    if row.spread:
        ratio += f' ({row.spread[0]:.3g} to {row.spread[1]:.3g})'
    name = f'{row.quantity}, {row.unit}' if row.unit else row.quantity
    return name, _number(row.ours), _number(row.reference), ratio, row.target, row.note


def _number(value: float | None) -> str:
    if value is None:
        return ''
    return f'{value:,.0f}' if float(value).is_integer() else f'{value:.3g}'


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
