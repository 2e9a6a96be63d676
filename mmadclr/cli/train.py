"""Train a model: pretraining, detection, segmentation or classification.

CONFIG is a file, or the name of a config of mmadclr. Ctrl-C and SIGTERM end a run with status 85 after a checkpoint.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from mmadclr.cli.arguments import add_config_arguments, add_launcher_arguments
from mmadclr.cli.choices import PRECISIONS

USAGE = 'CONFIG [options]'
EXAMPLE = 'adclr/vits16_folder --data my_images --gpus 8'


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    add_config_arguments(parser)
    add_launcher_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CKPT',
        help='continue from CKPT, or from the latest checkpoint in the work dir if no path is given',
    )
    parser.add_argument('--amp', choices=PRECISIONS, help='precision (default: bf16 on a GPU, fp32 on a CPU)')


def run(args: Namespace) -> None:
    """Trains."""
    from mmadclr.checkpoint.run_files import checkpoints
    from mmadclr.config.loading import load_config
    from mmadclr.engine import Runner
    from mmadclr.files import writing_below

    if args.amp:
        args.cfg_options['optim_wrapper.precision'] = args.amp
    cfg = load_config(args)
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
        init_cfg = cfg.model.get('backbone', {}).get('init_cfg')
        if init_cfg and (cfg.load_from or checkpoints(cfg.work_dir)):
            init_cfg.checkpoint = None  # the initial weights may no longer exist
    with writing_below(cfg.work_dir):
        runner = Runner.from_cfg(cfg)
    runner.train()
