"""What large kernels reach on this machine: the measure of everything after."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from gpu_parts.context import Context, number, seconds_of, table

NEEDS_GPU = True
TITLE = 'Ceilings'
ROUNDS = 30
WARM_UP = 0.3  # seconds: an idle card runs at a fraction of its clock


def run(context: Context) -> None:
    side, size = (256, 2**20) if context.smoke else (8192, 2**31)
    dtype = torch.bfloat16 if context.precision == 'bf16' or context.device == 'cpu' else torch.float16
    name = str(dtype).removeprefix('torch.')
    context.measure('product', lambda: product(context.device, side, dtype) | {'what': f'{name} product of {side}^3'})
    context.measure('copy', lambda: copy(context.device, size) | {'what': f'copy on the device, {size / 2**30:g} GiB'})
    context.measure('launch', lambda: launch(context.device) | {'what': 'one operation after the other on 1 number'})


def product(device: str, side: int, dtype: torch.dtype) -> dict[str, Any]:
    """TFLOP/s of a square product of random matrices; zeros would be faster."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return {'value': 2 * side**3 / median_seconds(lambda: a @ b, device) / 1e12, 'unit': 'TFLOP/s'}


def copy(device: str, size: int) -> dict[str, Any]:
    """GB/s read and written."""
    a = torch.empty(size, device=device, dtype=torch.uint8).random_()
    b = torch.empty_like(a)
    return {'value': 2 * size / median_seconds(lambda: b.copy_(a), device) / 1e9, 'unit': 'GB/s'}


def launch(device: str, count: int = 1000) -> dict[str, Any]:
    """Microseconds from one small operation to the next: what a step of many small ones cannot go below."""
    x = torch.zeros(1, device=device)

    def many() -> None:
        for _ in range(count):
            x.add_(1)

    return {'value': median_seconds(many, device) / count * 1e6, 'unit': 'us'}


def median_seconds(function, device: str) -> float:
    start = time.monotonic()
    while time.monotonic() - start < WARM_UP:
        seconds_of(function, device)
    return statistics.median(seconds_of(function, device) for _ in range(ROUNDS))


def section(rows: dict[str, dict[str, Any]]) -> list[str]:
    return table(['', 'measured'], [[row['what'], f'{number(row["value"])} {row["unit"]}'] for row in rows.values()])
