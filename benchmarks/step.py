"""What ADCLR's query term adds to a DINO step: ``python benchmarks/step.py``.

Both methods take the same global and local views; ADCLR also takes query crops. Printed: exact FLOPs of forward and
backward (torch's own counter), dispatched operations, and the ratio of step times, interleaved in one process.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from attention import count_flops, time_ratio
from torch.utils._python_dispatch import TorchDispatchMode

import mmadclr.models  # noqa: F401  fills the registry
from mmadclr.registry import MODELS


class OperationCounter(TorchDispatchMode):
    """Counts dispatched operations, views left out: on a GPU about the number of kernel launches."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--arch', default='vit_tiny_patch16_224')
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--queries', type=int, default=10)
    parser.add_argument('--locals', type=int, default=10)
    parser.add_argument('--prototypes', type=int, default=8192)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    return parser.parse_args()


def build_step(kind: str, args: argparse.Namespace):
    """A function that runs forward, backward, optimizer and teacher update once on fixed random views."""
    torch.manual_seed(0)
    model = MODELS.build(
        dict(type=kind, backbone=dict(type='QueryViT', arch=args.arch), head=dict(type='DINOHead', out_dim=args.prototypes))
    ).to(args.device)
    optimizer = torch.optim.AdamW([p for p in model.student.parameters() if p.requires_grad], lr=1e-4)
    num_query = args.queries if kind == 'ADCLR' else 0
    views = dict(
        global_views=torch.randn(args.batch, 2, 3, 224, 224, device=args.device),
        local_views=torch.randn(args.batch, args.locals, 3, 96, 96, device=args.device),
        query_crops=torch.randn(args.batch, 2, num_query, 3, 16, 16, device=args.device),
    )

    def step() -> None:
        sum(model.loss(**views).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step()

    return step


def main() -> None:
    args = parse_args()
    steps = {kind: build_step(kind, args) for kind in ('DINO', 'ADCLR')}
    print(f'{args.device}: {args.arch}, {args.batch} images, 2 x 224 + {args.locals} x 96, Q = {args.queries}')
    flops = {}
    for kind, step in steps.items():
        step()
        with OperationCounter() as operations:
            step()
        flops[kind] = count_flops(step) / args.batch
        print(f'{kind:<6} {flops[kind] / 1e9:.2f} GFLOP per image, {operations.count} operations per step')
    print(f'ADCLR / DINO, FLOPs: {flops["ADCLR"] / flops["DINO"]:.3f}')
    print(f'ADCLR / DINO, time: {time_ratio(steps["ADCLR"], steps["DINO"], args.rounds, args.device)}')


if __name__ == '__main__':
    main()
