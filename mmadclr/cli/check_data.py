"""Check every record and file in the data sets of a config."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from mmadclr.cli.argument_types import positive
from mmadclr.cli.arguments import add_config_arguments

USAGE = 'CONFIG [options]'
EXAMPLE = 'benchmarks/coco/mask-rcnn_vits16_fpn_1x --data data/coco'


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    add_config_arguments(parser)
    parser.add_argument('--first', type=positive, metavar='N', help='open only the first N images of each data set')


def run(args: Namespace) -> None:
    """Prints the contents of each data set, or its errors."""
    from mmengine.registry import init_default_scope

    from mmadclr.config.loading import load_config
    from mmadclr.datasets.checks import DatasetError, check_dataset

    cfg = load_config(args)
    init_default_scope(cfg.get('default_scope', 'mmadclr'))
    allow_other = (cfg.get('dataset_check') or {}).get('allow_other_categories', False)
    loaders = [(cfg.get(f'{part}_dataloader'), cfg.get(f'{part}_evaluator')) for part in ('train', 'val', 'test')]
    uses = [(loader.dataset, evaluator) for loader, evaluator in loaders if loader]
    failures = []
    for dataset, evaluator in [use for i, use in enumerate(uses) if use not in uses[:i]]:
        try:
            print(check_dataset(dataset, args.first, allow_other, evaluator, cfg.get('model')))
        except DatasetError as error:
            failures.append(str(error))
    if failures:
        sys.exit('error: ' + '\n'.join(failures))
