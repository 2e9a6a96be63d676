"""Training steps on views that are already there: ours, compiled and not, against the reference form, in turn.

The reference form has the structure of the published code (``reference.py``), in bf16 like ours and, as published, in fp16
with loss scaling. All forms of a row start from the same weights and see the same views; their first losses must agree.
"""

from __future__ import annotations

import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import step as bench
import torch
from limits import StepCost
from reference import ReferenceStep
from torch import nn

from gpu_parts.context import Context, number, one_line, seconds_of, table
from mmadclr.models.compilation import compile_blocks

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
SECONDS = 6.0  # of timing a row, at most
SURE = 2  # sizes that are begun whatever time is left
# Forms of each row of a size, by the end of its name. The first row needs no compiler and is soon known.
ROWS = {'': ('ours', 'reference', 'reference, fp16 and loss scaling'), ', compiled': ('compiled', 'ours', 'reference')}


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
    took = dict.fromkeys(ROWS, 0.0)
    for place, (arch, batch, method) in enumerate([('mini', 2, 'ADCLR')] if context.smoke else UNITS):
        unit = Unit(context, arguments_of(context, arch, batch, method))
        for suffix, names in ROWS.items():
            start, needs = time.monotonic(), 0.0 if place < SURE else took[suffix]
            key = f'{SHORT.get(arch, arch)}, {batch} images, {method}{suffix}'
            if context.measure(key, partial(unit.compare, names), needs):
                took[suffix] = max(took[suffix], time.monotonic() - start)
        del unit
        context.clean()


def arguments_of(context: Context, arch: str, batch: int, method: str) -> Namespace:
    """Settings of ``step.py``; DINO is ADCLR without queries."""
    sizes = context.sizes | ({'queries': 0} if method == 'DINO' else {})
    return Namespace(arch=arch, batch=batch, method=method, device=context.device, precision=context.precision, **sizes)


class Unit:
    """All forms of a step of one size. Each is built when it is first asked for, and serves several rows.

    A form for which the memory is too small is left out; its figures are the reason.
    """

    def __init__(self, context: Context, args: Namespace) -> None:
        torch._dynamo.reset()  # graphs of other sizes count against the same limit
        self.context, self.args = context, args
        self.views: dict[str, torch.Tensor] | None = None
        self.forms: dict[str, Form] = {}
        self.losses: dict[str, float] = {}
        self.peaks: dict[str, float | None] = {}
        self.problems: dict[str, str] = {}

    def compare(self, names: Sequence[str]) -> dict[str, Any]:
        """Figures of some forms, timed in turn.

        Raises:
            ValueError: Their first losses differ: they are not the same method.
            RuntimeError: No form fits into the memory, or torch cannot compile.
        """
        names = [name for name in names if name in builders(self.context, self.args)]
        for name in names:
            self.build(name)
        check_agreement(self.losses)
        seconds = 0.5 if self.context.smoke else min(SECONDS, self.context.left() / 2)
        times = in_turn({name: self.forms[name].step for name in names if name in self.forms}, self.args.device, seconds)
        figures: dict[str, dict[str, Any]] = {}
        for name in names:
            if name in times:
                figures[name] = figures_of(self.context, self.args, times[name], times.get('reference'), self.peaks[name])
            else:
                figures[name] = {'problem': self.problems[name]}
        share = memory_share(self.peaks.get(names[0]), self.peaks.get('reference'))
        return {'forms': figures, 'losses': dict(self.losses), 'memory_share': share, **headline(figures)}

    def build(self, name: str) -> None:
        """The form, its first loss, and its memory; two steps are behind it then."""
        if name in self.forms or name in self.problems:
            return
        self.views = bench.draw_views(self.args) if self.views is None else self.views
        try:
            form = builders(self.context, self.args)[name](self.args, self.views)
            self.losses[name] = form.loss()
            form.step()
            self.peaks[name] = peak_gib(form, self.args.device)
            self.forms[name] = form
        except torch.OutOfMemoryError as error:
            self.problems[name] = one_line(error)


def check_agreement(losses: dict[str, float]) -> None:
    if not losses:
        raise RuntimeError('too little memory for every form')
    if not max(losses.values()) - min(losses.values()) < AGREEMENT:
        raise ValueError(f'the forms disagree: first losses {", ".join(f"{k} {v:.3f}" for k, v in losses.items())}')


def builders(context: Context, args: Namespace) -> dict[str, Callable[[Namespace, dict], Form]]:
    """The forms by name; ``reference`` is in the precision of ours. fp16 and loss scaling, as published, need a GPU."""
    low = torch.bfloat16 if args.precision == 'bf16' else None
    found = {
        'compiled': partial(our_form, compiled={'backend': 'aot_eager'} if context.smoke else True),
        'ours': our_form,
        'reference': partial(reference_form, dtype=low),
        'reference, fp16 and loss scaling': partial(reference_form, dtype=torch.float16),
    }
    return found if args.device == 'cuda' else {k: v for k, v in found.items() if 'fp16' not in k}


def our_form(args: Namespace, views: dict, compiled: bool | dict = False) -> Form:
    """Ours, compiled or not.

    Raises:
        RuntimeError: torch cannot compile here. Errors of the compiler are raised by the first step: a form that had fallen
            back would pass for a compiled one.
    """
    model = bench.build(args)
    if compiled:
        torch._dynamo.config.fail_on_recompile_limit_hit = False  # not together with the next, which this sets
        if not compile_blocks(model, compiled):
            raise RuntimeError('torch cannot compile here; see gpu.log')
        torch._dynamo.config.suppress_errors = False
        torch._dynamo.config.fail_on_recompile_limit_hit = True
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


def memory_share(ours: float | None, reference: float | None) -> float | None:
    """In % of the reference form's."""
    return 100 * ours / reference if ours and reference else None


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
