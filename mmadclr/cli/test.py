"""Evaluate a checkpoint of a run with its config.

Detection, segmentation and classification configs report the metrics of their packages on the test set. Pretraining configs
report k-NN accuracy.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from mmadclr.cli.arguments import add_config_arguments, add_launcher_arguments

if TYPE_CHECKING:
    from mmengine.config import Config

USAGE = 'CONFIG CHECKPOINT [options]'
EXAMPLE = 'benchmarks/coco/mask-rcnn_vits16_fpn_1x work_dirs/mask-rcnn_vits16_fpn_1x/epoch_12.pth --gpus 8'
# The metric of each package that stores predictions. That of mmdet encodes masks; masks of mmseg are tensors.
DUMPERS = {'mmdet': 'DumpDetResults', 'mmseg': 'mmengine.DumpResults', 'mmpretrain': 'mmengine.DumpResults'}


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    add_config_arguments(parser)
    add_launcher_arguments(parser)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='checkpoint of a run with this config')
    parser.add_argument('--out', metavar='FILE.pkl', help='write all predictions to this pickle file')
    parser.add_argument('--show-dir', metavar='DIR', help='write images with predictions and ground truth')


def run(args: Namespace) -> None:
    """Evaluates, and prints the metrics as JSON."""
    from mmengine.dist import is_main_process

    from mmadclr.config.loading import load_config
    from mmadclr.engine import Runner
    from mmadclr.files import writing_below

    cfg = load_config(args)
    cfg.load_from = args.checkpoint
    validates = cfg.get('test_cfg') is None  # pretraining: the test is its validation
    if not validates:
        store_predictions(cfg, args)
    elif args.out or args.show_dir:
        kinds = 'detection, segmentation and classification'
        sys.exit(f'error: --out and --show-dir are for {kinds}; {args.config} makes no predictions')
    if not Path(args.checkpoint).is_file():  # before data sets are read or generated
        sys.exit(f'error: checkpoint {args.checkpoint} does not exist')
    with writing_below(cfg.work_dir):
        runner = Runner.from_cfg(cfg)
    metrics = runner.val() if validates else runner.test()
    if is_main_process():
        print(json.dumps({name: round(float(value), 4) for name, value in metrics.items()}, indent=1))


def store_predictions(cfg: Config, args: Namespace) -> None:
    """Adds the settings of ``--out`` and ``--show-dir`` to the config."""
    if args.out:
        if not args.out.endswith(('.pkl', '.pickle')):
            sys.exit(f'error: --out {args.out}: predictions are written as pickle; the name must end with .pkl')
        evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
        cfg.test_evaluator = [*evaluators, dict(type=DUMPERS[cfg.default_scope], out_file_path=args.out)]
    if args.show_dir:
        draw_predictions(cfg, str(Path(args.show_dir).absolute()))


def draw_predictions(cfg: Config, folder: str) -> None:
    """Makes the packages draw every image; each has its own setting for the folder."""
    hook = cfg.default_hooks.visualization
    hook['enable' if cfg.default_scope == 'mmpretrain' else 'draw'] = True
    hook.interval = 1
    if cfg.default_scope == 'mmpretrain':
        hook.out_dir = folder
    elif cfg.default_scope == 'mmdet':
        hook.test_out_dir = folder  # absolute: the hook joins relative names to its folder once per batch
    else:
        cfg.visualizer.save_dir = folder
        cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
