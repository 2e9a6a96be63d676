"""Training steps on views that are already there: ours, compiled and not, against the reference form, in turn.

The reference form has the structure of the published code (``reference.py``), in bf16 like ours and, as published, in fp16
with loss scaling. All forms of a row start from the same weights and see the same views; their first losses must agree.
"""

from __future__ import annotations

import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import step as bench
import torch
from limits import StepCost
from reference import ReferenceStep
from torch import nn

from gpu_parts.context import Context, number, one_line, seconds_of, table
from mmadclr.engine.compilation import compile_blocks

NEEDS_GPU = True
TITLE = 'Steps'
SHORT = {'vit_small_patch16_224': 'ViT-S/16', 'vit_base_patch16_224': 'ViT-B/16', 'vit_large_patch16_224': 'ViT-L/16'}
SMALL, BASE, LARGE = SHORT
# In this order, the most telling ones first: a machine may be taken away.
UNITS = [
    *((SMALL, 64, 'ADCLR'), (BASE, 64, 'ADCLR'), (SMALL, 64, 'DINO'), (SMALL, 256, 'ADCLR'), (BASE, 64, 'DINO')),
    *((LARGE, 32, 'ADCLR'), (BASE, 128, 'ADCLR'), (SMALL, 128, 'ADCLR')),
    *((SMALL, 256, 'DINO'), (BASE, 128, 'DINO'), (SMALL, 128, 'DINO'), (LARGE, 32, 'DINO')),
]
AGREEMENT = 0.05  # of first losses near ln 65536 = 11.1, in 16-bit precision
BURST = 3  # steps timed together, so that the host may run ahead
SECONDS = 12.0  # of timing a row, at most


@dataclass
class Form:
    """A way to take a step.

    Attributes:
        step: Takes one; nothing of it needs to be fetched.
        loss: Takes one and returns its loss.
        tensors: What it keeps from step to step: parameters, moments, centers.
    """

    step: Callable[[], object]
    loss: Callable[[], float]
    tensors: Callable[[], list[torch.Tensor]]


def run(context: Context) -> None:
    took = {'plain': 0.0, 'compiled': 0.0}
    for arch, batch, method in [('mini', 2, 'ADCLR')] if context.smoke else UNITS:
        for kind in took:
            key = f'{SHORT.get(arch, arch)}, {batch} images, {method}{", compiled" if kind == "compiled" else ""}'
            start = time.monotonic()
            arguments = arguments_of(context, arch, batch, method)
            if context.measure(key, partial(compare, context, arguments, kind), needs=1.2 * took[kind]):
                took[kind] = max(took[kind], time.monotonic() - start)


def arguments_of(context: Context, arch: str, batch: int, method: str) -> Namespace:
    """Settings of ``step.py``; DINO is ADCLR without queries."""
    sizes = context.sizes | ({'queries': 0} if method == 'DINO' else {})
    return Namespace(arch=arch, batch=batch, method=method, device=context.device, precision=context.precision, **sizes)


def compare(context: Context, args: Namespace, kind: str) -> dict[str, Any]:
    """Figures of all forms, timed in turn; a form for which the memory is too small is left out.

    Raises:
        ValueError: Their first losses differ: they are not the same method.
        RuntimeError: No form fits.
    """
    torch._dynamo.reset()  # graphs of other sizes count against the same limit, beyond which blocks run uncompiled
    views = bench.draw_views(args)
    forms: dict[str, Form] = {}
    losses: dict[str, float] = {}
    peaks: dict[str, float | None] = {}
    figures: dict[str, dict[str, Any]] = {}
    for name, build in builders(context, args, kind).items():
        try:
            form = build(args, views)
            losses[name] = form.loss()
            form.step()
            peaks[name] = peak_gib(form, args.device)
            forms[name] = form
        except torch.OutOfMemoryError as error:
            figures[name] = {'problem': one_line(error)}
    check_agreement(losses)
    seconds = 0.5 if context.smoke else min(SECONDS, context.left() / 2)
    times = in_turn({name: form.step for name, form in forms.items()}, args.device, seconds)
    for name in forms:
        figures[name] = figures_of(context, args, times[name], times.get('reference'), peaks[name])
    share = memory_share(peaks)
    return {'forms': figures, 'losses': losses, 'memory_share': share, **headline(figures)}


def check_agreement(losses: dict[str, float]) -> None:
    if not losses:
        raise RuntimeError('too little memory for every form')
    if not max(losses.values()) - min(losses.values()) < AGREEMENT:
        raise ValueError(f'the forms disagree: first losses {", ".join(f"{k} {v:.3f}" for k, v in losses.items())}')


def builders(context: Context, args: Namespace, kind: str) -> dict[str, Callable[[Namespace, dict], Form]]:
    """The forms of a row by name; ``reference`` is in the precision of ours."""
    low = args.precision == 'bf16'
    reference = partial(reference_form, dtype=torch.bfloat16 if low else None)
    if kind == 'compiled':
        backend = {'backend': 'aot_eager'} if context.smoke else True
        return {'compiled': partial(our_form, compiled=backend), 'ours': our_form, 'reference': reference}
    scaled = {'reference, fp16 and loss scaling': partial(reference_form, dtype=torch.float16)}
    return {'ours': our_form, 'reference': reference} | (scaled if args.device == 'cuda' else {})


def our_form(args: Namespace, views: dict, compiled: bool | dict = False) -> Form:
    """Raises a RuntimeError where torch cannot compile."""
    model = bench.build(args)
    if compiled and not compile_blocks(model, compiled):
        raise RuntimeError('torch cannot compile here; see gpu.log')
    ours = bench.OurStep(model, args.precision)
    step = partial(ours, **views)
    return Form(step, lambda: step().item(), lambda: state_of(model, ours.optimizer))


def reference_form(args: Namespace, views: dict, dtype: torch.dtype | None) -> Form:
    model = bench.build(args)
    scaler = torch.amp.GradScaler(args.device) if dtype is torch.float16 else None
    reference = ReferenceStep(model, bench.LR, bench.MAX_NORM, dtype, scaler)
    step = partial(reference, **views)
    return Form(step, step, lambda: state_of(model, reference.optimizer))


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    moments = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return [*model.parameters(), *model.buffers(), *moments]


def peak_gib(form: Form, device: str) -> float | None:
    """Memory at most in a step, with what the form keeps and without what the other forms keep."""
    if device != 'cuda':
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    form.step()
    torch.cuda.synchronize()
    kept = sum(tensor.nbytes for tensor in form.tensors() if tensor.is_cuda)
    return (torch.cuda.max_memory_allocated() - before + kept) / 2**30


def in_turn(steps: dict[str, Callable], device: str, seconds: float) -> dict[str, list[float]]:
    """Seconds a step of each, by rounds of all of them, for about ``seconds``: two rounds at least."""

    def burst(step: Callable) -> None:
        for _ in range(BURST):
            step()

    times: dict[str, list[float]] = {name: [] for name in steps}
    start, rounds = time.monotonic(), 0
    while rounds < 2 or (time.monotonic() - start < seconds and rounds < 15):
        for name, step in steps.items():
            times[name].append(seconds_of(lambda step=step: burst(step), device) / BURST)
        rounds += 1
    return times


def figures_of(
    context: Context, args: Namespace, times: list[float], reference: list[float] | None, peak: float | None
) -> dict[str, float | None]:
    """Images/s (median and range), times the reference form, peak memory, and shares of what the machine allows, in %."""
    speeds = sorted(args.batch / seconds for seconds in times)
    ratios = sorted(theirs / mine for mine, theirs in zip(times, reference or [], strict=reference is not None))
    speed = statistics.median(speeds)
    cost = StepCost.of(
        bench.MINI if args.arch == 'mini' else args.arch,
        num_local=args.locals,
        num_query=args.queries,
        prototypes=args.prototypes,
    )
    ceilings = context.record.rows('ceilings')
    measured = cost.images_per_second_at(*rates(ceilings)) if {'product', 'copy'} <= ceilings.keys() else None
    return {
        'images_per_s': speed,
        'spread': [speeds[0], speeds[-1]],
        'times_reference': statistics.median(ratios) if ratios else None,
        'times_reference_spread': [ratios[0], ratios[-1]] if ratios else None,
        'peak_gib': peak,
        'percent_of_limit': None if measured is None else 100 * speed / measured,
        'percent_of_product': 100 * speed * cost.flops() / rates(ceilings)[0] if 'product' in ceilings else None,
    }


def rates(ceilings: dict[str, dict[str, Any]]) -> tuple[float, float]:
    """FLOP/s and bytes/s as measured on this machine."""
    return ceilings['product']['value'] * 1e12, ceilings.get('copy', {'value': 0})['value'] * 1e9


def memory_share(peaks: dict[str, float | None]) -> float | None:
    """Of the first form, in % of the reference form's."""
    first, reference = next(iter(peaks.values())), peaks.get('reference')
    return 100 * first / reference if first and reference else None


def headline(figures: dict[str, dict[str, float | None]]) -> dict[str, float]:
    """For the terminal: of the first form."""
    name, first = next(iter(figures.items()))
    return {f'{name}_{figure}': first.get(figure) for figure in ('images_per_s', 'times_reference')}


def section(rows: dict[str, dict[str, Any]]) -> list[str]:
    header = ['', 'form', 'images/s', 'x reference', 'peak GiB', '% of the limit', '% of the product']
    lines = []
    for key, row in rows.items():
        for name, form in row['forms'].items():
            if 'problem' in form:
                lines.append([key, name, form['problem'], *[''] * 4])
                continue
            low, high = form['spread']
            speed = f'{number(form["images_per_s"])} ({number(low)} to {number(high)})'
            shares = [number(form[share]) for share in ('percent_of_limit', 'percent_of_product')]
            lines.append([key, name, speed, number(form['times_reference']), number(form['peak_gib']), *shares])
    note = (
        'Limit: computing and moving of activations without overlap, at the rates measured under Ceilings (`benchmarks/'
        'limits.py`). Product: the share of the large product\'s rate. "reference" is in the precision of ours.'
    )
    return [note, '', *table(header, lines)]
