"""Evaluate frozen patch features by the published dense protocols.

Segmentation by retrieval, k-NN, linear classifiers and clusters, attention masks, DAVIS, SPair-71k and CorLoc.

CHECKPOINT may have any supported layout. A config of mmadclr gives the randomly initialized backbone. Finished protocols are
skipped when the same command is started again.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from mmadclr.cli.argument_types import natural, positive
from mmadclr.cli.arguments import add_launcher_arguments, add_override_argument, add_weights_arguments
from mmadclr.cli.choices import BENCHMARKS, DTYPES, PRECISIONS, PROTOCOLS

USAGE = 'CHECKPOINT --suite BENCHMARKS --data-root DIR [options]'
EXAMPLE = 'work_dirs/vits16_in1k/epoch_800.pth --suite voc,davis,voc07 --data-root data --protocols hummingbird,davis,lost'


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    parser.add_argument(
        'checkpoint',
        metavar='CHECKPOINT',
        help='file or folder in any supported layout; or a config of mmadclr, for a randomly initialized backbone',
    )
    add_weights_arguments(parser)
    parser.add_argument(
        '--suite',
        required=True,
        metavar='NAMES',
        help=f'benchmarks, separated by commas: {", ".join(BENCHMARKS)}; NAME=DIR if one is not in '
        '--data-root, folder:OWN=DIR for several folders',
    )
    parser.add_argument('--data-root', metavar='DIR', help='folder of the benchmarks, as they are distributed')
    parser.add_argument(
        '--protocols',
        metavar='NAMES',
        help=f'separated by commas: {", ".join(PROTOCOLS)} (default: all that suit the benchmarks)',
    )
    parser.add_argument(
        '--size', type=positive, metavar='N', help='input size in pixels on segmentation benchmarks (default: as published)'
    )
    add_override_argument(
        parser, '--set', 'change settings of protocols, for example hummingbird.memory=1e6 linear.epochs=10 (see the docs)'
    )
    parser.add_argument(
        '--out',
        metavar='DIR',
        help='folder of results and features (default: work_dirs/dense/<folder and name of CHECKPOINT>)',
    )
    parser.add_argument(
        '--draws', type=natural, metavar='N', default=1000, help='bootstrap samples, 0 for none (default: 1000)'
    )
    parser.add_argument(
        '--against',
        nargs='+',
        default=[],
        metavar='DIR',
        help='--out of other checkpoints: also compare with their results on the same images, and say what may be chance',
    )
    parser.add_argument('--device', choices=('cpu', 'cuda'), help='default: a GPU if there is one')
    parser.add_argument('--batch-size', type=positive, metavar='N', default=16, help='images per batch (default: 16)')
    parser.add_argument(
        '--workers', type=natural, metavar='N', help='loader workers of each process (default: one per core, at most 16)'
    )
    parser.add_argument('--precision', choices=PRECISIONS, default='fp32', help='of the backbone; bf16 uses autocast')
    parser.add_argument('--dtype', choices=DTYPES, default='float32', help='of stored features (default: float32)')
    parser.add_argument(
        '--keep-features', action='store_true', help='keep the features in --out, to run other protocols later'
    )
    add_launcher_arguments(parser)


def run(args: Namespace) -> None:
    """Prints the plan and the results; writes them to ``--out``."""
    from mmadclr.cli.dense_suite import run_suite

    run_suite(args)
