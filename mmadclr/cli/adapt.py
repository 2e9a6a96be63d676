"""Continue pretraining from public weights on a folder of images.

Reads what the weights need, times a few steps, chooses sizes and length for the time, measures the original weights, trains
with an anchor to them, and prints a table of the original, the adapted and random weights with a verdict: better, worse, or
no difference. The work dir has the config (adapt.py), checkpoints and the table. To continue an interrupted run, run the
same command again.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from mmadclr.cli.argument_types import duration, natural, positive
from mmadclr.cli.arguments import add_launcher_arguments, add_override_argument, add_weights_arguments
from mmadclr.cli.choices import ADAPT_METHODS

USAGE = '--weights PATH --data DIR [options]'
EXAMPLE = '--weights dinov2_small --data my_images --budget 2h'


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    parser.add_argument(
        '--weights',
        required=True,
        metavar='PATH',
        help='file or folder with a plain vision transformer, or the name of a public one: timm:NAME, hf:USER/NAME',
    )
    add_weights_arguments(parser)
    parser.add_argument('--data', required=True, metavar='DIR', help='folder of images, searched recursively')
    parser.add_argument(
        '--budget', type=duration, default=7200, metavar='TIME', help='time for everything, such as 2h or 45m (default: 2h)'
    )
    parser.add_argument('--method', choices=ADAPT_METHODS, default='adclr', help='recipe: configs/adapt (default: adclr)')
    parser.add_argument('--work-dir', default='work_dirs/adapt', metavar='DIR', help='default: work_dirs/adapt')
    parser.add_argument('--seed', type=natural, default=0, metavar='N', help='of all that is drawn (default: 0)')
    parser.add_argument(
        '--size',
        type=positive,
        metavar='PIXELS',
        help='side of the global views (default: up to 224, as the weights were trained)',
    )
    parser.add_argument(
        '--labels', action='store_true', help='the folders in DIR are classes: also measure k-NN, which then decides'
    )
    parser.add_argument(
        '--masks',
        metavar='DIR',
        help='folder of images with masks (images/{train,val}, masks/{train,val}; see docs/benchmark_data.md): also measure '
        'mIoU, which then decides',
    )
    parser.add_argument(
        '--low-rank', type=positive, metavar='RANK', help='train only updates of this rank of the attention layers (LoRA)'
    )
    parser.add_argument(
        '--workers', type=natural, default=2, metavar='N', help='processes that read images, for each GPU (default: 2)'
    )
    add_override_argument(
        parser, '--cfg-options', 'change the recipe, for example model.anchor=None model.frozen_blocks=0 (see the docs)'
    )
    parser.add_argument('--dry-run', action='store_true', help='print the plan and stop')
    add_launcher_arguments(parser)


def check(args: Namespace) -> None:
    """Checks the input before several processes are started."""
    from mmadclr.adaptation.run import check as check_input

    check_input(args)


def run(args: Namespace) -> None:
    """Adapts."""
    from mmadclr.adaptation import adapt
    from mmadclr.cli.evaluation import join_processes

    join_processes(args)
    adapt(args)
