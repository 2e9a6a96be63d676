"""Checks the data sets of a config, every record and file: ``python tools/check_dataset.py CONFIG``."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmengine.registry import init_default_scope

from mmadclr.cli.launch import add_config_arguments, report_bad_input
from mmadclr.config.loading import load_config
from mmadclr.datasets.checks import DatasetError, check_dataset


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('--first', type=int, metavar='N', help='open only the first N images of every set')
    return parser.parse_args()


@report_bad_input
def main() -> None:
    args = parse_args()
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


if __name__ == '__main__':
    main()
