"""Where the time of a step goes: the dearest kernels by kind, the gaps between them, and a trace file.

On a CPU, operations take the place of kernels.
"""

from __future__ import annotations

import re
import statistics
from argparse import Namespace
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from gpu_parts import steps
from gpu_parts.context import Context, number, seconds_of, table
from gpu_parts.steps import BASE, SHORT, SMALL

NEEDS_GPU = True
TITLE = 'Profile'
STEPS = 3
SHOWN = 25
# The first kind whose pattern is found in the name of a kernel, or of an operation on a CPU.
KINDS = {
    'communication': r'nccl|all_?reduce|all_?gather|broadcast_kernel',
    'attention': r'flash|fmha|attention|attn',
    'products': r'gemm|gemv|cutlass|cublas|nvjet|xmma|splitk|wgmma|convolution|conv2d|\bconv|implicit_con|addmm|bmm|\bmm\b',
    'loss': r'softmax',
    'optimizer, clipping, teacher': r'multi_tensor|fused_?adam|foreach|adamw?|lerp',
    'norms and activations': r'layer_?norm|gelu|vectorized_layer|normalize|triton_(per|red|poi)',
    'copies': r'memcpy|memset|copy|catarray|\bcat\b|index|gather|scatter|fill',
    'elementwise and sums': r'elementwise|reduce|add|mul|sub|div|sum|norm|where|sqrt|exp',
}


def run(context: Context) -> None:
    units = [('mini', 2)] if context.smoke else [(SMALL, 64), (BASE, 64)]
    for arch, batch in units:
        args = steps.arguments_of(context, arch, batch, 'ADCLR')
        for compiled in (True, False):
            name = f'{SHORT.get(arch, arch)}, {batch} images, {"compiled" if compiled else "not compiled"}'
            file = None if context.smoke else f'trace_{arch}_{"compiled" if compiled else "plain"}.json.gz'
            context.measure(name, partial(profile_form, context, args, compiled, file), needs=10)


def profile_form(context: Context, args: Namespace, compiled: bool, file: str | None) -> dict[str, Any]:
    options = {'backend': 'aot_eager'} if context.smoke else True
    form = steps.our_form(args, steps.bench.draw_views(args), compiled=options if compiled else False)
    return profile_step(form.step, args.device, None if file is None else context.folder / file) | {'trace': file}


def profile_step(step: Callable[[], object], device: str, file=None) -> dict[str, Any]:
    """Milliseconds a step: measured without the profiler, by kernel, by kind, and what lies between kernels.

    Args:
        step: Takes one.
        device: Of its kernels.
        file: Where a trace of one step goes, for https://ui.perfetto.dev; None for none.
    """
    for _ in range(3):
        step()
    wall = statistics.median(seconds_of(step, device) for _ in range(5)) * 1e3
    activities = [ProfilerActivity.CUDA, ProfilerActivity.CPU] if device == 'cuda' else [ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(STEPS):
            step()
        if device == 'cuda':
            torch.cuda.synchronize()
    kernels = kernels_of(profiler.events(), device)
    if file is not None:
        with torch.profiler.profile(activities=activities) as once:
            step()
            torch.cuda.synchronize()
        once.export_chrome_trace(str(file))
    return {'step_ms': wall} | summary(kernels, wall, STEPS)


def kernels_of(events: Iterable, device: str) -> list[tuple[str, float, float]]:
    """Name, start and microseconds of every kernel; of every operation without those inside it on a CPU."""
    if device == 'cuda':
        found = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
        return [(e.name, e.time_range.start, e.time_range.end - e.time_range.start) for e in found]
    return [(e.name, e.time_range.start, e.self_cpu_time_total) for e in events if e.name.startswith('aten::')]


def summary(kernels: list[tuple[str, float, float]], wall_ms: float, steps: int) -> dict[str, Any]:
    """By kernel and by kind; ``gaps`` is the time of a step in which no kernel runs.

    Kernels of several streams may run at a time, so kinds may add up to more than is busy.
    """
    by_name: dict[str, list[float]] = {}
    for name, _, microseconds in kernels:
        by_name.setdefault(name, []).append(microseconds / 1e3)
    rows = [
        {'kernel': short_name(name), 'kind': kind_of(name), 'calls': len(times) / steps, 'ms': sum(times) / steps}
        for name, times in by_name.items()
    ]
    rows.sort(key=lambda row: -row['ms'])
    kinds: dict[str, float] = {}
    for row in rows:
        kinds[row['kind']] = kinds.get(row['kind'], 0.0) + row['ms']
    busy = busy_ms(kernels) / steps
    return {
        'busy_ms': busy,
        'gaps_ms': max(0.0, wall_ms - busy),
        'launches': len(kernels) / steps,
        'kinds': dict(sorted(kinds.items(), key=lambda item: -item[1])),
        'kernels': rows[:SHOWN],
    }


def busy_ms(kernels: list[tuple[str, float, float]]) -> float:
    """Length of the union of all intervals."""
    total, end = 0.0, float('-inf')
    for _, start, microseconds in sorted(kernels, key=lambda kernel: kernel[1]):
        total += max(0.0, start + microseconds - max(start, end))
        end = max(end, start + microseconds)
    return total / 1e3


def kind_of(name: str) -> str:
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name.lower())), 'other')


def short_name(name: str) -> str:
    """Without the arguments of templates and calls, which fill a page."""
    name = re.sub(r'^void ', '', name)
    while (shorter := re.sub(r'<[^<>]*>', '', name)) != name:
        name = shorter
    return re.sub(r'\(.*', '', name).replace('|', ' ')[:80].strip() or 'unnamed'


def section(rows: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for name, row in rows.items():
        whole = row['step_ms']
        share = lambda ms, whole=whole: [number(ms), f'{100 * ms / whole:.0f} %']  # noqa: E731
        kinds = [[kind, *share(ms)] for kind, ms in {**row['kinds'], 'gaps': row['gaps_ms']}.items()]
        kernels = [[k['kernel'], k['kind'], number(k['calls']), *share(k['ms'])] for k in row['kernels']]
        trace = f' Trace: `{row["trace"]}`.' if row.get('trace') else ''
        lines += [f'### {name}: {number(whole)} ms a step, {number(row["launches"])} kernels', '']
        lines += [f'{trace.strip()}', ''] if trace else []
        lines += [*table(['kind', 'ms', 'of the step'], kinds), '']
        lines += [*table(['kernel', 'kind', 'calls', 'ms', 'of the step'], kernels), '']
    return lines
