"""Pretrain ADCLR on generated images, and evaluate its features.

The demo generates the images, evaluates raw pixels and the untrained network, pretrains, evaluates the teacher, and draws
pictures. It then trains Mask R-CNN and UperNet from the pretrained teacher and from random initialization, and prints one
table. All output is in the work dir; ``summary.json`` contains the numbers of all parts.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from mmadclr.cli.arguments import add_config_arguments, add_dense_arguments
from mmadclr.compare.dense_tasks import DENSE_TASKS

USAGE = '[CONFIG] [options]'
EXAMPLE = '--parts pretraining'
PARTS = ('pretraining', *DENSE_TASKS)


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    add_config_arguments(parser, default_config='demo/adclr_vittiny_shapes')
    parser.add_argument(
        '--seed', type=int, metavar='N', default=0, help='seed of initialization, order and augmentation (default: 0)'
    )
    parser.add_argument(
        '--parts',
        nargs='+',
        choices=PARTS,
        default=PARTS,
        metavar='PART',
        help=f'parts to run: {", ".join(PARTS)} (default: all)',
    )
    add_dense_arguments(parser)


def run(args: Namespace) -> None:
    """Runs the parts, and prints the table."""
    from mmadclr.compare.demo import PICTURES, run_demo, table

    args.work_dir = args.work_dir or 'work_dirs/demo'
    print(table(run_demo(args)))
    for picture in filter(Path.is_file, (Path(args.work_dir, name) for name in PICTURES)):
        print(f'picture: {os.path.relpath(picture)}')
    if 'pretraining' in args.parts:
        from mmadclr.report import write_report

        report, _ = write_report([args.work_dir])  # again, now with the evaluations and pictures
        print(f'report: {os.path.relpath(report)}')
