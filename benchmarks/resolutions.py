"""Linear layers once over the tokens of both resolutions, or once for each: ``python benchmarks/resolutions.py``.

One block, forward and backward, on global views with query tokens and on local views. The joint form, that of
``joint_resolutions=True``, lines up the tokens of both for norms and linear layers and parts them for attention. Both must
give the same tokens.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import common
import torch
from common import counted_row
from torch import Tensor

from mmadclr.models.backbones import QueryViT, TokenLayout
from mmadclr.models.backbones.query_block import JointLayout, QueryBlock

LAYOUTS = (TokenLayout(197), TokenLayout(37))


def separate(block: QueryBlock, groups: list[Tensor]) -> list[Tensor]:
    return [block(x, layout) for x, layout in zip(groups, LAYOUTS, strict=True)]


def joint(block: QueryBlock, groups: list[Tensor]) -> list[Tensor]:
    layout = JointLayout(LAYOUTS, tuple((x.shape[0], x.shape[1]) for x in groups), patches=(True, True))
    return layout.part(block(layout.join(groups), layout))


def pass_through(form: Callable, block: QueryBlock, groups: list[Tensor]) -> list[Tensor]:
    """Forward and backward; the tokens that come out."""
    outputs = form(block, groups)
    sum(output.sum() for output in outputs).backward()
    return outputs


def build(args: argparse.Namespace) -> tuple[QueryBlock, list[Tensor]]:
    torch.manual_seed(0)
    block = QueryViT(args.arch).blocks[1].to(args.device)
    shapes = (2 * args.batch, 197 + args.queries), (args.locals * args.batch, 37)
    return block, [torch.randn(*shape, block.norm1.weight.shape[0], device=args.device) for shape in shapes]


def main() -> None:
    defaults = dict(arch='vit_small_patch16_224', batch=2, queries=10, locals=10, rounds=15)
    args = common.parser(__doc__, **defaults).parse_args()
    block, groups = build(args)
    forms = [lambda form=form: pass_through(form, block, groups) for form in (separate, joint)]
    difference = max((a - b).abs().max().item() for a, b in zip(*(form() for form in forms), strict=True))
    if difference > 1e-4:
        raise SystemExit(f'the two forms disagree by {difference:.1e}')
    counts = [common.count(form).operations for form in forms]
    rows = [
        common.timed_row(
            'a block: apart (ours) and joint', *forms, args.rounds, args.device, note=f'agree to {difference:.0e}'
        ),
        counted_row('operations', '', *counts),
    ]
    common.report('resolutions', rows, args)


if __name__ == '__main__':
    main()
