"""Train configs with several seeds under one protocol, and write one table.

Every config is trained with every seed; teachers, and the untrained network, are measured by k-NN, linear classifiers, patch
probes, Mask R-CNN and UperNet. The work dir of a finished run in the place of a config is measured as it is.

``OUT/table.md`` and ``OUT/table.json`` hold means and standard deviations over seeds and are brought up to date after every
job. The same command goes on where it was interrupted. What was made with another config or other options is put aside and
made anew (a change of the code is not noticed: choose another --out). Commands with different --seeds may share one --out
and run at the same time; the same command with all seeds then makes the table.
"""

from __future__ import annotations

import signal
import sys
from argparse import ArgumentParser, Namespace

from mmadclr.cli.argument_types import natural, positive
from mmadclr.cli.arguments import add_dense_arguments, add_override_argument
from mmadclr.compare.dense_tasks import DENSE_TASKS, PARTS, chosen_tasks
from mmadclr.compare.protocol import ASPECTS, check_alike

USAGE = 'CONFIG [CONFIG ...] [options]'
EXAMPLE = 'demo/dino_vittiny_shapes demo/adclr_vittiny_shapes --seeds 0 1 2'


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    parser.add_argument(
        'configs', nargs='+', metavar='CONFIG', help='of pretraining: a file or a name; or the work dir of a finished run'
    )
    parser.add_argument('--seeds', type=natural, nargs='+', metavar='N', default=[0, 1, 2])
    parser.add_argument('--out', default='work_dirs/compare', metavar='DIR', help='of runs, results and the table')
    parser.add_argument(
        '--epochs',
        type=positive,
        metavar='N',
        help='of every pretraining, in place of what configs say; finished runs stay as they are',
    )
    parser.add_argument(
        '--parts', nargs='+', choices=PARTS, default=PARTS, metavar='PART', help=f'of {", ".join(PARTS)}; all by default'
    )
    parser.add_argument(
        '--allow-different',
        nargs='+',
        choices=ASPECTS,
        default=[],
        metavar='ASPECT',
        help=f'may differ: {", ".join(ASPECTS)}',
    )
    add_override_argument(parser, '--cfg-options', 'override keys of every config')
    for part in DENSE_TASKS:
        parser.add_argument(f'--{part}-config', metavar='CONFIG', help=f"config of {part}; the demo's by default")
    add_dense_arguments(parser)


def run(args: Namespace) -> None:
    """Runs what is missing, and prints the table."""
    from mmadclr.compare.board import Comparison
    from mmadclr.compare.methods import load_methods
    from mmadclr.compare.plan import load_settings

    signal.signal(signal.SIGTERM, lambda *_: sys.exit('error: ended by SIGTERM; the same command goes on from here'))
    tasks = chosen_tasks(args)
    methods = load_methods(args.configs, args.cfg_options, args.epochs)
    notes = check_alike({method.name: method.cfg for method in methods}, args.allow_different)
    comparison = Comparison(methods, args.seeds, load_settings(args.out, tasks), args.parts, vars(args), notes)
    failed = comparison.run()
    print(comparison.markdown())
    if failed:
        sys.exit(f'error: {len(failed)} jobs failed: {"; ".join(failed)}')
