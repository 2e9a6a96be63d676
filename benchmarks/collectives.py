"""What processes exchange in a training step: ``python benchmarks/collectives.py``.

Two processes on the CPU (gloo) take the same steps, ours and the reference form: that of ``reference.py`` in DDP with its
defaults, one all-reduce of K numbers per loss inside the forward pass (facebookresearch/dino, ``main_dino.py: DINOLoss``),
and losses reduced for the log in every step (facebookresearch/dinov2, ``train.py``). Both must agree in losses and centers
first. All figures are exact counts of the last step; those of shards (``sharding='fsdp'``) stand beside whole parameters.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import common
import torch
import torch.distributed as dist
from common import Row, counted_row
from mmengine.model import MMDistributedDataParallel
from reference import PairLoop, ReferenceStep, move_teacher
from step import LR, MAX_NORM, build, draw_views
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from mmadclr.distributed.shards import local_tensors
from mmadclr.engine.optimizers.constructors import SelfDistillationOptimConstructor
from mmadclr.models.sharding import shard_model

PROCESSES, LOG_INTERVAL = 2, 50
COLLECTIVES = ('all_reduce', 'all_gather_into_tensor', 'reduce_scatter_tensor', 'broadcast', 'all_gather')


@dataclass
class Traffic:
    """Collectives of a step as (name, bytes sent, whether the caller waits), and the buckets of DDP."""

    calls: list[tuple[str, float, bool]] = field(default_factory=list)
    buckets: list[Tensor] = field(default_factory=list)

    def bytes(self, *names: str) -> float:
        return sum(size for name, size, _ in self.calls if name in names or not names)

    def bucket_hook(self, group, bucket):
        """DDP's own reduction, counted as a bucket and not as a call besides."""
        self.buckets.append(bucket.buffer())
        reduced = allreduce_hook(group, bucket)
        self.calls.pop()
        return reduced


def sent(name: str, whole: int) -> float:
    """Bytes each process sends in a ring for a collective on ``whole`` bytes; reducing *and* spreading takes two rounds."""
    return whole * (2 if name == 'all_reduce' else 1) * (PROCESSES - 1) / PROCESSES


@contextmanager
def recorded(traffic: Traffic) -> Iterator[None]:
    """Counts what this process sends."""
    plain = {name: getattr(dist, name) for name in COLLECTIVES}

    def counting(name: str) -> Callable:
        def call(*args, **kwargs):
            whole = max(value.nbytes for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
            traffic.calls.append((name, sent(name, whole), not kwargs.get('async_op', False)))
            return plain[name](*args, **kwargs)

        return call

    for name in COLLECTIVES:
        setattr(dist, name, counting(name))
    try:
        yield
    finally:
        for name, function in plain.items():
            setattr(dist, name, function)


class PairLoopOverProcesses(PairLoop):
    """The loss with a center of the rows of all processes."""

    def __call__(self, student: Tensor, teacher: Tensor, num_student: int) -> Tensor:
        before = self.center
        loss = super().__call__(student, teacher, num_student)
        total = teacher.sum(dim=0, keepdim=True)
        dist.all_reduce(total)
        self.center = before * 0.9 + total / (len(teacher) * dist.get_world_size()) * 0.1
        return loss


class ReferenceForm(nn.Module):
    """Forward pass of the reference form, to be wrapped by DDP."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.model = build(args)
        draw_weights(self.model)
        self.reference = ReferenceStep(self.model, LR, MAX_NORM)
        self.losses = [PairLoopOverProcesses(args.prototypes, 'cpu') for _ in range(2)]
        self.reference.loss_cls, self.reference.loss_query = self.losses

    def forward(self, **views: Tensor) -> Tensor:
        return self.reference.loss(**views)


@dataclass
class Form:
    """One form of the step: ``step`` returns the loss; ``centers`` and ``gradient_bytes`` as they are after it."""

    step: Callable[[], Tensor]
    traffic: Traffic
    centers: Callable[[], list[Tensor]]
    model: nn.Module
    gradient_bytes: int = 0

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Counts the memory of gradients, and of buckets beside them, when the optimizer is about to step."""

        def measure(*_) -> None:
            gradients = [p.grad for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
            tensors = [*local_tensors(gradients), *self.traffic.buckets]
            storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
            self.gradient_bytes = sum(storages.values())

        optimizer.register_step_pre_hook(measure)


def draw_weights(model: nn.Module) -> None:
    torch.manual_seed(0)
    model.init_weights()


def our_form(args: argparse.Namespace, views: dict, sharded: bool = False) -> Form:
    """As the runner sets it up."""
    model, traffic = build(args), Traffic()
    draw_weights(model)
    if sharded:
        torch.manual_seed(0)  # it draws them again
        shard_model(model, 'fsdp')
        wrapped = model
    else:
        wrapped = MMDistributedDataParallel(
            model, device_ids=None, broadcast_buffers=False, gradient_as_bucket_view=True, static_graph=True
        )
        wrapped.register_comm_hook(None, traffic.bucket_hook)
    settings = dict(optimizer=dict(type='AdamW', lr=LR, weight_decay=0.01), max_norm=None, precision='fp32')
    wrapper = SelfDistillationOptimConstructor(settings)(wrapped)
    wrapper.optimizer.param_groups[1]['weight_decay'] = 0.01  # the reference form has one group

    def step() -> Tensor:
        with wrapper.optim_context(wrapped):
            loss = sum(wrapped(views=views, mode='loss').values())
        wrapper.update_params(loss)
        return loss

    form = Form(step, traffic, lambda: [model.loss_cls.center, model.loss_query.center], model)
    form.watch(wrapper.optimizer)
    return form


def reference_form(args: argparse.Namespace, views: dict) -> Form:
    form, traffic = ReferenceForm(args), Traffic()
    wrapped = DistributedDataParallel(form)
    wrapped.register_comm_hook(None, traffic.bucket_hook)
    optimizer = form.reference.optimizer

    def step() -> Tensor:
        loss = wrapped(**views)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        move_teacher(form.model.teacher, form.model.student, form.model.teacher_momentum)
        logged = loss.detach().clone()
        for value in (logged, *(torch.zeros(()) for _ in form.losses)):  # the sum and each loss
            dist.all_reduce(value)
        return loss

    result = Form(step, traffic, lambda: [loss.center[0] for loss in form.losses], form.model)
    result.watch(optimizer)
    return result


def take_steps(form: Form, steps: int) -> tuple[list[float], list[Tensor]]:
    """Losses and final centers; the traffic is that of the last step."""
    losses = []
    for _ in range(steps):
        form.traffic.calls.clear()
        form.traffic.buckets.clear()
        with recorded(form.traffic):
            loss = form.step()
        losses.append(loss.item())
    return losses, [center.clone() for center in form.centers()]


def check(name: str, ours: tuple[list[float], list[Tensor]], other: tuple[list[float], list[Tensor]]) -> str:
    """Largest differences of losses and centers.

    Raises:
        SystemExit: They are not the same method.
    """
    losses = max(abs(a - b) for a, b in zip(ours[0], other[0], strict=True))
    centers = max((a - b).abs().max().item() for a, b in zip(ours[1], other[1], strict=True))
    if losses > 1e-4 or centers > 1e-4:
        raise SystemExit(f'ours and {name} disagree: losses by {losses:.1e}, centers by {centers:.1e}')
    return f'losses agree to {losses:.1e}, centers to {centers:.1e}'


def rows_of(ours: Form, reference: Form, sharded: Form, note: str, shard_note: str) -> list[Row]:
    forms = [form.traffic for form in (ours, reference)]
    held = [sum(p.nbytes for p in local_tensors(list(form.model.parameters()))) / 2**20 for form in (sharded, ours)]
    shards = sharded.traffic.bytes('all_gather_into_tensor', 'reduce_scatter_tensor') / 2**20
    buckets = [sum(sent('all_reduce', bucket.nbytes) for bucket in traffic.buckets) / 2**20 for traffic in forms]
    return [
        counted_row('collectives a step beside gradients', '', *(len(t.calls) for t in forms), note=note),
        counted_row('of them the step waits for', '', *(sum(waits for *_, waits in t.calls) for t in forms)),
        counted_row('sent a step beside gradients', 'B', *(t.bytes() for t in forms)),
        counted_row(f'collectives for {LOG_INTERVAL} logged steps', '', 1, 3 * LOG_INTERVAL, note='ours: LossRecordHook'),
        counted_row('gradients sent a step', 'MiB', *buckets),
        counted_row('buckets of gradients', '', *(len(t.buckets) for t in forms)),
        counted_row('memory of gradients and buckets', 'MiB', *(f.gradient_bytes / 2**20 for f in (ours, reference))),
        counted_row('sharded: parameters a process holds', 'MiB', *held, note=f'reference: whole parameters; {shard_note}'),
        counted_row('sharded: memory of gradients', 'MiB', *(f.gradient_bytes / 2**20 for f in (sharded, ours))),
        counted_row('sharded: parameters and gradients sent a step', 'MiB', shards, buckets[0]),
    ]


def work(rank: int, args: argparse.Namespace, meeting_place: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{meeting_place}', rank=rank, world_size=PROCESSES)
    views = {name: (value + rank / 10) for name, value in draw_views(args).items()}  # no two processes see the same
    forms = [our_form(args, views), reference_form(args, views), our_form(args, views, sharded=True)]
    results = [take_steps(form, args.steps) for form in forms]
    notes = [check(name, results[0], result) for name, result in zip(('the reference', 'shards'), results[1:], strict=True)]
    if rank == 0:
        common.report('collectives', rows_of(*forms, *notes), args)
    dist.destroy_process_group()


def main() -> None:
    settings = dict(arch='vit_tiny_patch16_224', batch=1, locals=2, queries=4, prototypes=65536, steps=3)
    args = common.parser(__doc__, **settings).parse_args()
    args.device = 'cpu'
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (args, f'{folder}/meeting'), nprocs=PROCESSES)


if __name__ == '__main__':
    main()
