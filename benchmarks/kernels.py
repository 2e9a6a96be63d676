"""What kernels a step is made of: names, kinds, and the gaps between them, from torch's profiler.

On a CPU, operations take the place of kernels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

SHOWN = 25
# The first kind whose pattern is found in the name of a kernel, or of an operation on a CPU.
KINDS = {
    'fused: norms, activations, residuals': r'triton_(per|red|poi)',
    'communication': r'nccl|all_?reduce|all_?gather|broadcast_kernel',
    'attention': r'flash|fmha|attention|attn',
    'products': r'triton_tem|gemm|gemv|cutlass|cublas|nvjet|xmma|splitk|wgmma|conv|addmm|bmm|\bmm\b',
    'softmax of the loss': r'softmax',
    'optimizer, clipping, teacher': r'multi_tensor|fused_?adam|foreach|adamw?|lerp',
    'norms and activations': r'layer_?norm|gelu|vectorized_layer|normalize|gammabeta',
    'copies': r'memcpy|memset|copy|catarray|\bcat\b|index|gather|scatter|fill',
    'elementwise and sums': r'elementwise|reduce|add|mul|sub|div|sum|norm|where|sqrt|exp',
}


def profiled(step: Callable[[], object], device: str, steps: int) -> torch.profiler.profile:
    """The profiler after ``steps`` of them."""
    activities = [ProfilerActivity.CUDA, ProfilerActivity.CPU] if device == 'cuda' else [ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(steps):
            step()
        if device == 'cuda':
            torch.cuda.synchronize()
    return profiler


def kernels_of(events: Iterable, device: str) -> list[tuple[str, float, float]]:
    """Name, start and microseconds of every kernel; of every operation without those inside it on a CPU."""
    if device == 'cuda':
        found = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
        if not found:
            raise RuntimeError('the profiler saw no kernel of the GPU: it may not read them on this machine')
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
    name = re.sub(r'^void ', '', name).replace('(anonymous namespace)::', '')
    while (shorter := re.sub(r'<[^<>]*>', '', name)) != name:
        name = shorter
    return re.sub(r'\(.*', '', name).replace('|', ' ')[:80].strip() or 'unnamed'
