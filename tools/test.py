"""Evaluates a checkpoint: ``python tools/test.py CONFIG CHECKPOINT``.

Detection, segmentation and classification configs report the metrics of their packages on the test set, pretraining configs
k-NN accuracy.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmengine.config import Config
from mmengine.dist import is_main_process

from mmadclr.cli.launch import add_config_arguments, add_launcher_arguments, report_bad_input
from mmadclr.config.loading import load_config
from mmadclr.engine import Runner

# What the packages call the metric that stores predictions. mmdet's packs masks; mmseg's are tensors already.
DUMPERS = {'mmdet': 'DumpDetResults', 'mmseg': 'mmengine.DumpResults', 'mmpretrain': 'mmengine.DumpResults'}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    add_launcher_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint of a run with this config')
    parser.add_argument('--out', metavar='FILE.pkl', help='write all predictions to this pickle file')
    parser.add_argument('--show-dir', metavar='DIR', help='write the images with predictions and ground truth drawn on them')
    return parser.parse_args()


@report_bad_input
def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    cfg.load_from = args.checkpoint
    validates = cfg.get('test_cfg') is None  # pretraining: what there is to test is its validation
    if not validates:
        store_predictions(cfg, args)
    elif args.out or args.show_dir:
        kinds = 'detection and segmentation, and for classification'
        sys.exit(f'error: --out and --show-dir are for {kinds}; {args.config} predicts nothing')
    if not Path(args.checkpoint).is_file():  # before data sets are read, or drawn
        sys.exit(f'error: checkpoint {args.checkpoint} does not exist')
    runner = Runner.from_cfg(cfg)
    metrics = runner.val() if validates else runner.test()
    if is_main_process():
        print(json.dumps({name: round(float(value), 4) for name, value in metrics.items()}, indent=1))


def store_predictions(cfg: Config, args: argparse.Namespace) -> None:
    """Adds to the config what ``--out`` and ``--show-dir`` ask for."""
    if args.out:
        if not args.out.endswith(('.pkl', '.pickle')):
            sys.exit(f'error: --out {args.out}: predictions are written as pickle, name a .pkl file')
        evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
        cfg.test_evaluator = [*evaluators, dict(type=DUMPERS[cfg.default_scope], out_file_path=args.out)]
    if args.show_dir:
        folder = str(Path(args.show_dir).absolute())
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


if __name__ == '__main__':
    main()
