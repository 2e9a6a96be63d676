"""Trains a model: ``python tools/train.py CONFIG``."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone that is not installed, too

from mmadclr.checkpoint.run_files import checkpoints
from mmadclr.cli.launch import add_config_arguments, add_launcher_arguments, report_bad_input
from mmadclr.config.loading import load_config
from mmadclr.engine import Runner


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    add_launcher_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CKPT',
        help='continue from CKPT, or without a path from the latest checkpoint in the work dir',
    )
    parser.add_argument('--amp', choices=['bf16', 'fp32'], help='precision; by default bf16 on a GPU, fp32 on a CPU')
    return parser.parse_args()


@report_bad_input
def main() -> None:
    args = parse_args()
    if args.amp:
        args.cfg_options['optim_wrapper.precision'] = args.amp
    cfg = load_config(args)
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
        init_cfg = cfg.model.get('backbone', {}).get('init_cfg')
        if init_cfg and (cfg.load_from or checkpoints(cfg.work_dir)):
            init_cfg.checkpoint = None  # what the run once started from need not be there any more
    Runner.from_cfg(cfg).train()


if __name__ == '__main__':
    main()
