"""Memory of everything as wide as the prototypes: ``python benchmarks/loss_memory.py``.

Heads' last layers and losses on [CLS] and query tokens, forward and backward, against the loop over pairs of views. The
bytes alive at a time are counted on tensors without contents, hence for any batch; values and times at a batch that fits.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import common
import torch
from common import counted_row
from counters import PeakBytes
from reference import PairLoop, logits_of
from torch._subclasses.fake_tensor import FakeTensorMode

from mmadclr.models.heads.dino_head import PrototypeLayer
from mmadclr.models.losses.self_distillation import ProjectedFeatures, SelfDistillationLoss

WIDTH = 256


def inputs(batch: int, args: argparse.Namespace, device: str) -> tuple[list[torch.Tensor], list[PrototypeLayer]]:
    """Rows of student and teacher for [CLS] and queries, and the prototypes of both networks."""
    torch.manual_seed(0)
    with torch.device(device):
        prototypes = [PrototypeLayer(WIDTH, args.prototypes, learn_norm=False) for _ in range(2)]
    prototypes[1].requires_grad_(False)
    shapes = [(2 + args.locals, batch), (2, batch), (2, batch, args.queries), (2, batch, args.queries)]
    rows = [torch.nn.functional.normalize(torch.randn(*shape, WIDTH, device=device), dim=-1) for shape in shapes]
    return [part.requires_grad_(index % 2 == 0) for index, part in enumerate(rows)], prototypes


def ours(rows: list[torch.Tensor], prototypes: list[PrototypeLayer], args: argparse.Namespace) -> torch.Tensor:
    device = rows[0].device
    with torch.device(device):
        losses = [SelfDistillationLoss(args.prototypes, logits_mib=args.logits_mib).eval() for _ in range(2)]
    sides = [ProjectedFeatures(part, prototypes[index % 2]) for index, part in enumerate(rows)]
    loss = losses[0](*sides[:2]) + losses[1](*sides[2:])
    loss.backward()
    return loss.detach()


def reference(rows: list[torch.Tensor], prototypes: list[PrototypeLayer], args: argparse.Namespace) -> torch.Tensor:
    losses = [PairLoop(args.prototypes, str(rows[0].device)) for _ in range(2)]
    logits = [logits_of(prototypes[index % 2], part.flatten(0, -2)) for index, part in enumerate(rows)]
    loss = losses[0](*logits[:2], len(rows[0])) + losses[1](*logits[2:], 2)
    loss.backward()
    return loss.detach()


def peak(form: Callable, batch: int, args: argparse.Namespace) -> float:
    """GiB."""
    with FakeTensorMode():
        rows, prototypes = inputs(batch, args, 'cpu')
        with PeakBytes() as memory:
            form(rows, prototypes, args)
    return memory.most / 2**30


def check(args: argparse.Namespace) -> str:
    """Largest differences of loss and gradients, relative to the largest gradient."""
    results = []
    for form in (ours, reference):
        rows, prototypes = inputs(args.batch, args, args.device)
        loss = form(rows, prototypes, args)
        results.append([loss, rows[0].grad, rows[2].grad, prototypes[0].weight_v.grad])
    errors = [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(*results, strict=True)]
    if max(errors) > 1e-3:
        raise SystemExit(f'the two forms disagree: {errors}')
    return f'loss agrees to {errors[0]:.1e}, gradients to {max(errors[1:]):.1e} of the largest'


def main() -> None:
    defaults = dict(batch=4, queries=10, locals=10, prototypes=65536, logits_mib=64, rounds=5)
    args = common.parser(__doc__, **defaults).parse_args()
    print(check(args))
    rows = []
    for batch in (64, 256, 1024):
        target = '<= 0.25 GiB' if batch == 256 else ''
        peaks = (peak(form, batch, args) for form in (ours, reference))
        rows.append(counted_row(f'alive at batch {batch}', 'GiB', *peaks, target=target))
    data = inputs(args.batch, args, args.device)
    counts = [common.count(lambda form=form: form(*data, args)).operations for form in (ours, reference)]
    rows.append(counted_row(f'operations at batch {args.batch}', '', *counts))
    forms = (lambda form=form: form(*data, args) for form in (ours, reference))
    rows.append(common.timed_row(f'forward and backward at batch {args.batch}', *forms, args.rounds, args.device))
    common.report('loss_memory', rows, args)


if __name__ == '__main__':
    main()
