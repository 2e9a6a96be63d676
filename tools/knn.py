"""k-NN accuracy of a checkpoint's teacher: ``python tools/knn.py CONFIG CHECKPOINT --train DIR --val DIR``."""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmengine.dist import is_main_process

from mmadclr.engine import Runner
from mmadclr.engine.launch import add_config_arguments, add_launcher_arguments, load_config, report_bad_input
from mmadclr.evaluation.settings import knn_settings


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    add_launcher_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint of a run with this config')
    parser.add_argument('--train', required=True, metavar='DIR', help='class folders whose images vote')
    parser.add_argument('--val', required=True, metavar='DIR', help='class folders whose images are classified')
    parser.add_argument('--k', type=int, nargs='+', default=[10, 20, 100, 200], help='numbers of neighbours')
    parser.add_argument('--temperature', type=float, default=0.07)
    parser.add_argument('--resize', type=int, help='short side before the centre crop; 8/7 of the image size by default')
    parser.add_argument('--batch-size', type=int, default=128)
    parser.add_argument('--workers', type=int, default=4)
    return parser.parse_args()


@report_bad_input
def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    settings = knn_settings(
        args.train,
        args.val,
        img_size=cfg.model.backbone.get('img_size', 224),
        resize=args.resize,
        batch_size=args.batch_size,
        num_workers=args.workers,
        k=tuple(args.k),
        temperature=args.temperature,
    )
    for name, value in settings.items():
        cfg[name] = value
    cfg.load_from = args.checkpoint
    metrics = Runner.from_cfg(cfg).val()
    if is_main_process():
        print(json.dumps({name: round(value, 2) for name, value in metrics.items()}, indent=1))


if __name__ == '__main__':
    main()
