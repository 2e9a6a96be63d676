"""One rectangular attention call against what it replaces: ``python benchmarks/attention.py``.

Every image and query row reads the image tokens. References: the masked square call of the same fused kernel, and scores,
mask and softmax written out (``reference.py``), forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable

import common
import torch
import torch.nn.functional as F
from common import counted_row, timed_row
from torch import Tensor

from mmadclr.models.backbones import TokenLayout
from mmadclr.models.backbones.query_block import QueryAttention

NUM_IMAGE = 197


def written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    return scores.masked_fill(~mask, float('-inf')).softmax(dim=-1) @ v


def forward_backward(attend: Callable, tensors: list[Tensor], *args) -> Callable[[], Tensor]:
    def run() -> Tensor:
        out = attend(*tensors, *args)
        out.sum().backward()
        return out.detach()

    return run


def main() -> None:
    args = common.parser(__doc__, batch=16, queries=10, heads=6, rounds=15).parse_args()
    shape = args.batch, args.heads, NUM_IMAGE + args.queries, 64
    tensors = [torch.randn(*shape, device=args.device, requires_grad=True) for _ in range(3)]
    layout = TokenLayout(NUM_IMAGE)
    mask = layout.mask(shape[2], args.device)
    ours = forward_backward(QueryAttention.attend, tensors, layout)
    references = {
        'masked square call': forward_backward(F.scaled_dot_product_attention, tensors, mask),
        'written out': forward_backward(written_out, tensors, mask),
    }
    rows = []
    for name, reference in references.items():
        difference = (ours() - reference()).abs().max().item()
        if difference > 1e-4:
            raise SystemExit(f'{name}: the outputs differ by {difference:.1e}')
        note = f'outputs agree to {difference:.0e}'
        rows.append(timed_row(f'against the {name}', ours, reference, args.rounds, args.device, note=note))
        flops = (common.count_flops(form) / 1e6 for form in (ours, reference))
        rows.append(counted_row(f'against the {name}', 'MFLOP', *flops))
    common.report('attention', rows, args)


if __name__ == '__main__':
    main()
