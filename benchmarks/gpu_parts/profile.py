"""Where the time of a step goes: the dearest kernels by kind, the gaps between them, and a trace file."""

from __future__ import annotations

import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from kernels import kernels_of, profiled, summary

from gpu_parts import steps
from gpu_parts.context import Context, number, seconds_of, table, wait_for
from gpu_parts.steps import BASE, SHORT, SMALL

NEEDS_GPU = True
TITLE = 'Profile'
STEPS = 3


def run(context: Context) -> None:
    units = [('mini', 2)] if context.smoke else [(SMALL, 64), (BASE, 64)]
    for arch, batch in units:
        args = steps.arguments_of(context, arch, batch, 'ADCLR')
        for compiled in (False, True):
            name = f'{SHORT.get(arch, arch)}, {batch} images, {"compiled" if compiled else "not compiled"}'
            file = None if context.smoke else f'trace_{arch}_{"compiled" if compiled else "plain"}.json.gz'
            context.measure(name, partial(profile_form, context, args, compiled, file), needs=20 if compiled else 5)


def profile_form(context: Context, args: Namespace, compiled: bool, file: str | None) -> dict[str, Any]:
    torch._dynamo.reset()
    options = {'backend': 'aot_eager'} if context.smoke else True
    form = steps.our_form(args, steps.bench.draw_views(args), compiled=options if compiled else False)
    return profile_step(form.step, args.device, None if file is None else context.folder / file) | {'trace': file}


def profile_step(step: Callable[[], object], device: str, file=None) -> dict[str, Any]:
    """Milliseconds a step: measured without the profiler, by kernel, by kind, and what lies between kernels.

    ``host_ms`` is what the host needs to issue a step to an idle device: if it is near ``step_ms``, kernels wait for it.

    Args:
        step: Takes one.
        device: Of its kernels.
        file: Where a trace of one step goes, for https://ui.perfetto.dev; None for none.
    """

    def burst() -> None:
        for _ in range(STEPS):
            step()

    burst()
    wall = statistics.median(seconds_of(burst, device) for _ in range(3)) / STEPS * 1e3
    host = min(seconds_until_issued(step, device) for _ in range(STEPS)) * 1e3
    kernels = kernels_of(profiled(step, device, STEPS).events(), device)
    if file is not None:
        profiled(step, device, 1).export_chrome_trace(str(file))
    return {'step_ms': wall, 'host_ms': host} | summary(kernels, wall, STEPS)


def seconds_until_issued(step: Callable[[], object], device: str) -> float:
    wait_for(device)
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def section(rows: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for name, row in rows.items():
        whole = row['step_ms']
        kinds = [[kind, *of_step(ms, whole)] for kind, ms in {**row['kinds'], 'gaps': row['gaps_ms']}.items()]
        kernels = [[k['kernel'], k['kind'], number(k['calls']), *of_step(k['ms'], whole)] for k in row['kernels']]
        lines += [f'### {name}: {number(whole)} ms a step, {number(row["launches"])} kernels', '']
        lines += [f'The host issues a step in {number(row["host_ms"])} ms.', '']
        lines += [f'Trace: `{row["trace"]}`, for https://ui.perfetto.dev.', ''] if row['trace'] else []
        lines += [*table(['kind', 'ms', 'of the step'], kinds), '']
        lines += [*table(['kernel', 'kind', 'calls', 'ms', 'of the step'], kernels), '']
    return lines


def of_step(ms: float, whole: float) -> tuple[str, str]:
    return number(ms), f'{100 * ms / whole:.0f} %'
