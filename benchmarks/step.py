"""A whole training step against the reference form: ``python benchmarks/step.py``.

Forward, backward, numbers guard, clipping, AdamW, centers and teacher on prepared views; ``reference.py``, which has no
guard, is the structure of the published code on the same parameters. Both are run from one start first and must agree in
loss and weights. Printed: ratio of times, exact counts, and on a GPU images/s, peak memory and the share of the analytical
limit (``limits.py``).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import common
import torch
from common import Row, count, counted_row
from counters import PeakBytes
from kernels import kernels_of, profiled, summary
from limits import StepCost
from reference import ReferenceStep, clip, move_teacher

import mmadclr.models  # noqa: F401  fills the registry
from mmadclr.engine.optimizers.constructors import SelfDistillationOptimConstructor
from mmadclr.engine.optimizers.wrappers import clip_each_tensor
from mmadclr.models.compilation import compile_blocks
from mmadclr.models.selfsup import update_teacher
from mmadclr.precision import PRECISIONS
from mmadclr.registry import MODELS

LR, MAX_NORM = 1e-4, 3.0
MINI = dict(embed_dim=64, depth=3, num_heads=4, patch_size=16)


def build(args: argparse.Namespace) -> torch.nn.Module:
    """ADCLR from a fixed seed; ``backbone`` and ``model`` among the arguments add to its config."""
    torch.manual_seed(0)
    arch = MINI if args.arch == 'mini' else args.arch
    backbone = dict(type='QueryViT', arch=arch, **getattr(args, 'backbone', {}))
    head = dict(type='DINOHead', out_dim=args.prototypes)
    prepared = dict(type='BaseDataPreprocessor')  # takes the views as they are
    model = dict(type='ADCLR', backbone=backbone, head=head, teacher_momentum=0.99, data_preprocessor=prepared)
    with torch.device(args.device):  # weights of large models are drawn there, which is faster
        return MODELS.build({**model, **getattr(args, 'model', {})}).to(args.device)


def draw_views(args: argparse.Namespace) -> dict[str, torch.Tensor]:
    generator = torch.Generator(args.device).manual_seed(1)
    shapes = dict(
        global_views=(args.batch, 2, 3, 224, 224),
        local_views=(args.batch, args.locals, 3, 96, 96),
        query_crops=(args.batch, 2, args.queries, 3, 16, 16),
    )
    return {name: torch.randn(shape, generator=generator, device=args.device) for name, shape in shapes.items()}


class OurStep:
    """What a training iteration runs between two batches."""

    def __init__(self, model: torch.nn.Module, precision: str) -> None:
        settings = dict(optimizer=dict(type='AdamW', lr=LR, weight_decay=0.01), max_norm=MAX_NORM, precision=precision)
        self.model, self.wrapper = model, SelfDistillationOptimConstructor(settings)(model)
        self.optimizer = self.wrapper.optimizer
        self.optimizer.param_groups[1]['weight_decay'] = 0.01  # the reference form has one group

    def __call__(self, **views: torch.Tensor) -> torch.Tensor:
        return self.model.train_step(dict(views=views), self.wrapper)['loss']


def reference_step(model: torch.nn.Module, precision: str) -> ReferenceStep:
    return ReferenceStep(model, LR, MAX_NORM, PRECISIONS[precision])


def agree(ours: Callable, reference: Callable, models: list[torch.nn.Module], views: dict, within: float = 1e-4) -> str:
    """Two steps of each from the same start: largest difference of losses and weights.

    Raises:
        SystemExit: They are not the same method.
    """
    losses = [abs(ours(**views).item() - reference(**views)) for _ in range(2)]
    pairs = zip(models[0].teacher.parameters(), models[1].teacher.parameters(), strict=True)
    weights = max((a - b).abs().max().item() for a, b in pairs)
    if max(losses) > within or weights > within:
        raise SystemExit(f'the two forms disagree: losses by {max(losses):.1e}, teacher weights by {weights:.1e}')
    return f'losses agree to {max(losses):.1e}, teacher weights to {weights:.1e} after two steps'


def count_rows(ours: Callable, reference: Callable, models: list[torch.nn.Module], views: dict) -> list[Row]:
    """Exact counts of a step and of its two loops over tensors."""
    forms = [partial(form, **views) for form in (ours, reference)]
    steps, flops = [count(form) for form in forms], [common.count_flops(form) / 1e9 for form in forms]
    peaks = [peak_mib(form) for form in forms]
    kept, plain = [], reference_step(models[1], 'fp32')
    for loss in (lambda: sum(models[0].loss(**views).values()), lambda: plain.loss(**views)):
        with PeakBytes() as memory:
            result = loss()  # noqa: F841  keeps the graph alive
        kept.append(memory.now / 2**20)
    for loss in models[0].distillation_losses():
        loss.pending.clear()  # a loss that no step follows
    teachers = [
        count(lambda: update_teacher(models[0].teacher, models[0].student, 0.99, torch.zeros(()))),
        count(lambda: move_teacher(models[1].teacher, models[1].student, 0.99)),
    ]
    for model in models:
        for parameter in model.student.parameters():
            parameter.grad = torch.zeros_like(parameter)
    gradients = [p.grad for p in models[0].student.parameters()]
    clips = [count(lambda: clip_each_tensor(gradients, MAX_NORM)), count(lambda: clip(models[1].student, MAX_NORM))]
    for model in models:
        model.zero_grad(set_to_none=True)
    return [
        counted_row('computing of a step', 'GFLOP', *flops),
        counted_row('operations of a step', '', steps[0].operations, steps[1].operations),
        counted_row('waits for the device in a step', '', len(steps[0].syncs), len(steps[1].syncs), target='0'),
        counted_row('kept for the backward pass', 'MiB', *kept),
        counted_row('alive at most in a step, beside weights', 'MiB', *peaks),
        counted_row('operations of the teacher update', '', teachers[0].operations, teachers[1].operations),
        counted_row('operations of clipping', '', clips[0].operations, clips[1].operations),
        counted_row('waits for the device in clipping', '', len(clips[0].syncs), len(clips[1].syncs), target='0'),
    ]


def kind_rows(steps: dict[str, Callable], device: str) -> list[Row]:
    """Milliseconds of a step by kind of kernel: what is left to save."""
    kinds = [summary(kernels_of(profiled(step, device, 1).events(), device), 0.0, 1)['kinds'] for step in steps.values()]
    names = sorted(kinds[0].keys() | kinds[1].keys(), key=lambda name: -kinds[0].get(name, 0.0))
    return [counted_row(f'of it, {name}', 'ms', *(kind.get(name, 0.0) for kind in kinds)) for name in names]


def peak_mib(form: Callable) -> float:
    """MiB of tensors that a step makes and that exist at a time."""
    with PeakBytes() as memory:
        form()
    return memory.most / 2**20


def gpu_rows(steps: dict[str, Callable], speed: Row, args: argparse.Namespace) -> list[Row]:
    """Peak memory beyond weights and moments (both forms have theirs in memory), and the share of the limit."""
    peaks = []
    for step in steps.values():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        peaks.append((torch.cuda.max_memory_allocated() - before) / 2**30)
    cost = StepCost.of(args.arch, num_local=args.locals, num_query=args.queries, prototypes=args.prototypes)
    limit = cost.images_per_second(torch.cuda.get_device_name())
    rows = [counted_row('peak memory of a step', 'GiB', *peaks, target='<= half')]
    if limit:
        rows.append(Row('share of the limit', '%', 100 * speed.ours / limit, 100 * speed.reference / limit))
    return rows


def main() -> None:
    parser = common.parser(
        __doc__, arch='vit_small_patch16_224', batch=2, queries=10, locals=10, prototypes=65536, rounds=9, precision='fp32'
    )
    parser.add_argument('--compile', action='store_true', help='compile our blocks')
    args = parser.parse_args()
    views, models = draw_views(args), [build(args), build(args)]
    ours, reference = OurStep(models[0], 'fp32'), reference_step(models[1], 'fp32')
    print(agree(ours, reference, models, views))
    if args.compile or args.precision == 'bf16':  # the same once more, from the start
        models = [build(args), build(args)]
        if args.compile and not compile_blocks(models[0], True):
            raise SystemExit('torch cannot compile here')
        ours, reference = OurStep(models[0], args.precision), reference_step(models[1], args.precision)
        print(agree(ours, reference, models, views, within=0.05))
    steps = {'ours': partial(ours, **views), 'reference': partial(reference, **views)}
    time = common.timed_row('step', *steps.values(), args.rounds, args.device, target='>= 1.35 (CPU), >= 3 (GPU)')
    speeds = [args.batch / (value / 1e3) for value in (time.ours, time.reference)]
    note = 'of one thread' if args.device == 'cpu' else ''
    target = '1500 (ViT-S), 700 (ViT-B) on an H200'
    speed = Row('training', 'images/s', *speeds, speeds[0] / speeds[1], target=target, note=note)
    rows = [time, speed, *kind_rows(steps, args.device), *count_rows(ours, reference, models, views)]
    if args.device == 'cuda':
        rows += gpu_rows(steps, speed, args)
    common.report('step', rows, args)


if __name__ == '__main__':
    main()
