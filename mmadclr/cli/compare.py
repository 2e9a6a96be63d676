"""Train configs with several seeds under one protocol, and write one table.

Every config is trained with every seed. The teachers and the untrained network are evaluated by k-NN, linear classifiers,
patch probes, Mask R-CNN and UperNet. The work dir of a finished run can be given instead of a config; it is only evaluated.

``OUT/table.md`` and ``OUT/table.json`` contain means and standard deviations over seeds. They are updated after each job. To
continue an interrupted comparison, run the same command again. Results of other configs or options are moved aside, and the
jobs run again. Changes of the code are not detected: choose another --out. Commands with different --seeds can share one
--out and run at the same time; afterwards, the same command with all seeds writes the table.
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
        'configs', nargs='+', metavar='CONFIG', help='pretraining config (file or name), or work dir of a finished run'
    )
    parser.add_argument('--seeds', type=natural, nargs='+', metavar='N', default=[0, 1, 2])
    parser.add_argument('--out', default='work_dirs/compare', metavar='DIR', help='folder for runs, results and the table')
    parser.add_argument(
        '--epochs',
        type=positive,
        metavar='N',
        help='length of each pretraining, instead of that in the configs; finished runs are not changed',
    )
    parser.add_argument(
        '--parts',
        nargs='+',
        choices=(*PARTS, 'suite'),
        metavar='PART',
        help=f'parts to run: {", ".join(PARTS)}, suite (default: all; suite only with --suite)',
    )
    parser.add_argument(
        '--allow-different',
        nargs='+',
        choices=ASPECTS,
        default=[],
        metavar='ASPECT',
        help=f'aspects in which the configs may differ: {", ".join(ASPECTS)}',
    )
    add_override_argument(parser, '--cfg-options', 'override keys of every config')
    for part in DENSE_TASKS:
        parser.add_argument(f'--{part}-config', metavar='CONFIG', help=f'{part} config (default: that of the demo)')
    add_dense_arguments(parser)
    add_suite_arguments(parser)


def add_suite_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments that go to ``mmadclr dense``."""
    parser.add_argument('--suite', metavar='NAMES', help='benchmarks of the dense suite, as in mmadclr dense: a column each')
    parser.add_argument('--suite-data-root', metavar='DIR', help='its --data-root')
    parser.add_argument('--suite-protocols', metavar='NAMES', help='its --protocols')
    parser.add_argument('--suite-size', type=positive, metavar='N', help='its --size')
    add_override_argument(parser, '--suite-set', 'its --set')


def run(args: Namespace) -> None:
    """Runs the missing jobs, and prints the table."""
    from mmadclr.compare.board import Comparison
    from mmadclr.compare.methods import load_methods
    from mmadclr.compare.plan import load_settings
    from mmadclr.compare.suite import suite_arguments

    signal.signal(signal.SIGTERM, lambda *_: sys.exit('error: ended by SIGTERM; run the same command again to continue'))
    args.parts = chosen_parts(args)
    tasks = chosen_tasks(args)
    methods = load_methods(args.configs, args.cfg_options, args.epochs)
    notes = check_alike({method.name: method.cfg for method in methods}, args.allow_different)
    comparison = Comparison(
        methods, args.seeds, load_settings(args.out, tasks, suite_arguments(args)), args.parts, vars(args), notes
    )
    failed = comparison.run()
    print(comparison.markdown())
    if failed:
        sys.exit(f'error: {len(failed)} jobs failed: {"; ".join(failed)}')


def chosen_parts(args: Namespace) -> list[str]:
    """The parts to run.

    Raises:
        ValueError: ``suite`` without ``--suite``, or the other way round.
    """
    if args.parts is None:
        return [*PARTS, 'suite'] if args.suite else [*PARTS]
    if ('suite' in args.parts) != bool(args.suite):
        missing = '--suite NAMES' if 'suite' in args.parts else 'suite in --parts'
        raise ValueError(f'the dense suite needs {missing} as well')
    return args.parts
