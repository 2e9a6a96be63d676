"""Trains configs with several seeds under one protocol, and writes one table: ``python tools/compare.py CONFIG ...``.

Every config is trained with every seed; teachers, and the untrained network, are measured by k-NN, linear classifiers, patch
probes, Mask R-CNN and UperNet. The work dir of a finished run in the place of a config is measured as it is.

``OUT/table.md`` and ``OUT/table.json`` hold means and standard deviations over seeds and are brought up to date after every
job. The same command goes on where it was interrupted. What was made with another config or other options is put aside and
made anew (a change of the code is not noticed: choose another --out). Commands with different --seeds may share one --out
and run at the same time; the same command with all seeds then makes the table.
"""

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmengine.config import DictAction

from mmadclr.cli.argument_types import natural, positive
from mmadclr.cli.launch import report_bad_input
from mmadclr.compare.board import Comparison
from mmadclr.compare.dense_tasks import DENSE_TASKS, add_dense_arguments, chosen_tasks
from mmadclr.compare.methods import load_methods
from mmadclr.compare.plan import PARTS, load_settings
from mmadclr.compare.protocol import ASPECTS, check_alike


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='of pretraining, or the work dir of a finished run')
    parser.add_argument('--seeds', type=natural, nargs='+', default=[0, 1, 2])
    parser.add_argument('--out', default='work_dirs/compare', metavar='DIR', help='of runs, results and the table')
    parser.add_argument(
        '--epochs', type=positive, help='of every pretraining, in place of what configs say; finished runs stay as they are'
    )
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS, help='what to run; all by default')
    parser.add_argument(
        '--allow-different',
        nargs='+',
        choices=ASPECTS,
        default=[],
        metavar='ASPECT',
        help=f'may differ: {", ".join(ASPECTS)}',
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={}, metavar='KEY=VALUE', help='override keys of every config'
    )
    for part in DENSE_TASKS:
        parser.add_argument(f'--{part}-config', metavar='FILE', help=f"config of {part}; the demo's by default")
    add_dense_arguments(parser)
    return parser.parse_args()


@report_bad_input
def main() -> None:
    args = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('error: ended by SIGTERM; the same command goes on from here'))
    tasks = chosen_tasks(args)
    methods = load_methods(args.configs, args.cfg_options, args.epochs)
    notes = check_alike({method.name: method.cfg for method in methods}, args.allow_different)
    comparison = Comparison(methods, args.seeds, load_settings(args.out, tasks), args.parts, vars(args), notes)
    failed = comparison.run()
    print(comparison.markdown())
    if failed:
        sys.exit(f'error: {len(failed)} jobs failed: {"; ".join(failed)}')


if __name__ == '__main__':
    main()
