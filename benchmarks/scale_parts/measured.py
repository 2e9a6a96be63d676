"""Time and memory of a function in a process of its own."""

from __future__ import annotations

import multiprocessing
import re
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from common import Row

MB = 1e6


class Cost(NamedTuple):
    """``seconds`` of processor time; ``peak`` bytes of memory beyond those there before, and ``held`` at the end."""

    seconds: float
    peak: float
    held: float


def cost(function: Callable[..., object], *args) -> Cost:
    """What one call costs in a fresh process. The function is one of a module; its result is held while it is measured."""
    spawn = multiprocessing.get_context('spawn')
    here, there = spawn.Pipe()
    process = spawn.Process(target=_measure, args=(there, function, *args))
    process.start()
    there.close()
    try:
        return Cost(*here.recv())
    except EOFError as error:
        raise RuntimeError(f'{function.__name__}{args} failed, see above') from error
    finally:
        process.join()


def _measure(answer: Connection, function: Callable[..., object], *args) -> None:
    function(*args, warm_up=True)
    Path('/proc/self/clear_refs').write_text('5')  # the peak begins anew
    before, start = memory('VmRSS'), time.process_time()
    result = function(*args)
    seconds, peak, held = time.process_time() - start, memory('VmHWM') - before, memory('VmRSS') - before
    answer.send((seconds, peak, held))
    del result


def memory(name: str) -> int:
    """Bytes, by the name of a line of ``/proc/self/status``."""
    return int(re.search(rf'{name}:\s+(\d+) kB', Path('/proc/self/status').read_text())[1]) * 1024


def children_seconds() -> tuple[float, float]:
    """Processor time of processes that have ended: of their own, and of the system for them."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime, usage.ru_stime


def cost_rows(
    quantity: str, ours: Sequence[Cost], theirs: Sequence[Cost] = (), seconds_target='', memory_target=''
) -> list[Row]:
    """Rows of processor time and of peak memory, medians of several costs each."""
    rows = []
    for unit, field, scale, target in (('s', 'seconds', 1, seconds_target), ('MB at most', 'peak', MB, memory_target)):
        mine, other = ([getattr(one, field) / scale for one in costs] for costs in (ours, theirs))
        reference = statistics.median(other) if other else None
        ratios = sorted(b / a for a, b in zip(mine, other, strict=False) if a)
        ratio, spread = (statistics.median(ratios), (ratios[0], ratios[-1])) if ratios else (None, None)
        rows.append(Row(quantity, unit, statistics.median(mine), reference, ratio, spread, target))
    return rows
