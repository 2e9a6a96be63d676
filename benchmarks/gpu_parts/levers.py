"""Keys that no config sets: a step of ViT-S/16 with each of them against the same step without, compiled, in turn."""

from __future__ import annotations

import time
from argparse import Namespace
from functools import partial
from typing import Any

import step as bench
import torch

from gpu_parts import steps
from gpu_parts.context import Context, number, table
from gpu_parts.steps import SMALL

NEEDS_GPU = True
TITLE = 'Levers'
BATCH = 64
LOSSES = ('loss_cls', 'loss_query')
# Arguments of the compiler, the backbone and the model; those of which most is expected come first.
LEVERS: dict[str, dict[str, dict[str, Any]]] = {
    'CUDA graphs': {'compile': {'mode': 'reduce-overhead'}},
    'activation_memory_budget=1': {
        # With a default of torch, named so that the two forms do not share graphs.
        'compile': {'activation_memory_budget': 1.0, 'options': {'fallback_random': False}}
    },
    'joint_resolutions=False': {'backbone': {'joint_resolutions': False}},
    'logits_mib=1024': {'model': {loss: {'logits_mib': 1024} for loss in LOSSES}},
    'teacher_copies': {'model': {'teacher_copies': True}},
    'whole backbones': {'compile': {'scope': 'backbone'}},
    'max-autotune': {'compile': {'mode': 'max-autotune-no-cudagraphs'}},
}


def run(context: Context) -> None:
    arch, batch = ('mini', 2) if context.smoke else (SMALL, BATCH)
    took = 0.0 if context.smoke else 30.0  # with what the compiler may take
    for name in ('teacher_copies',) if context.smoke else LEVERS:
        start = time.monotonic()
        if context.measure(name, partial(compare, context, arch, batch, LEVERS[name]), needs=took):
            took = max(took, time.monotonic() - start)


def compare(context: Context, arch: str, batch: int, lever: dict[str, dict]) -> dict[str, Any]:
    """Images/s with and without, and memory."""
    torch._dynamo.reset()
    args = steps.arguments_of(context, arch, batch, 'ADCLR')
    views = bench.draw_views(args)
    backend = {'backend': 'aot_eager'} if context.smoke else {}
    pulled = Namespace(**vars(args), backbone=lever.get('backbone', {}), model=lever.get('model', {}))
    settings = {'with': (pulled, lever.get('compile', {})), 'without': (args, {})}
    forms, losses = {}, {}
    for name, (arguments, options) in settings.items():
        forms[name] = steps.our_form(arguments, views, compiled={**backend, **options} or True)
        losses[name] = forms[name].loss()  # compiles it
    steps.check_agreement(losses)
    for form in forms.values():
        form.step()
    peaks = {name: steps.peak_gib(form, args.device) for name, form in forms.items()}
    seconds = 0.5 if context.smoke else 6.0
    times = steps.in_turn({name: form.step for name, form in forms.items()}, args.device, seconds)
    ratios = sorted(without / with_ for with_, without in zip(times['with'], times['without'], strict=True))
    speeds = {name: sorted(batch / value for value in column)[len(column) // 2] for name, column in times.items()}
    return {
        'images_per_s': speeds['with'],
        'images_per_s_without': speeds['without'],
        'gain': ratios[len(ratios) // 2],
        'spread': [ratios[0], ratios[-1]],
        # Replayed graphs allocate nothing that would be counted: their memory is reserved before.
        'peak_gib': None if lever.get('compile', {}).get('mode') == 'reduce-overhead' else peaks['with'],
        'peak_gib_without': peaks['without'],
    }


def section(rows: dict[str, dict[str, Any]]) -> list[str]:
    cells = []
    for name, row in rows.items():
        low, high = row['spread']
        gain = f'{number(row["gain"])} ({number(low)} to {number(high)})'
        figures = ('images_per_s', 'images_per_s_without', 'peak_gib', 'peak_gib_without')
        cells.append([f'`{name}`', gain, *(number(row[figure]) for figure in figures)])
    return table(['', 'times as fast', 'images/s with', 'without', 'peak GiB with', 'without'], cells)
