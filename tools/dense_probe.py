"""mIoU of frozen patch features by k-NN and by a linear classifier: ``python tools/dense_probe.py CONFIG CHECKPOINT ...``.

Reads a pretraining config and its checkpoint (the teacher is measured); without a checkpoint, random initialisation.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from mmengine.dist import is_main_process

from mmadclr.engine import Runner
from mmadclr.engine.launch import add_config_arguments, add_launcher_arguments, load_config, report_bad_input
from mmadclr.evaluation import DenseProbe


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    add_launcher_arguments(parser)
    parser.add_argument('checkpoint', nargs='?', help='checkpoint of a run with this config')
    parser.add_argument('--data-root', required=True, metavar='DIR', help='folder of images and masks')
    for part, meaning in (('train', 'classifiers learn from'), ('val', 'are scored on')):
        parser.add_argument(
            f'--{part}',
            required=True,
            nargs=2,
            metavar=('IMAGES', 'MASKS'),
            help=f'folders below it that {meaning}; masks are PNG files of the same relative names',
        )
    parser.add_argument('--num-classes', type=int, required=True)
    parser.add_argument('--ignore-index', type=int, default=255, help='label of pixels that do not count')
    parser.add_argument('--reduce-zero-label', action='store_true', help='0 is no class, classes start at 1 (ADE20K)')
    parser.add_argument(
        '--size', type=int, help='side in pixels images are brought to; twice that of pretraining by default'
    )
    parser.add_argument('--max-images', type=int, default=1000, help='of the training and of the validation set')
    parser.add_argument('--bank-size', type=int, default=20_000, help='patches of the training images that are used')
    parser.add_argument('--k', type=int, default=20, help='number of neighbours')
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--workers', type=int, default=4)
    return parser.parse_args()


@report_bad_input
def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    runner = Runner.from_cfg(cfg)
    if args.checkpoint:
        runner.load_checkpoint(args.checkpoint)
    train = dict(
        data_root=args.data_root,
        img_dir=args.train[0],
        mask_dir=args.train[1],
        size=args.size or 2 * int(np.max(cfg.model.backbone.get('img_size', 224))),
        num_classes=args.num_classes,
        ignore_index=args.ignore_index,
        reduce_zero_label=args.reduce_zero_label,
        max_images=args.max_images,
    )
    val = dict(img_dir=args.val[0], mask_dir=args.val[1])
    probe = DenseProbe(train, val, k=args.k, bank_size=args.bank_size, batch_size=args.batch_size, num_workers=args.workers)
    metrics = probe(runner.model)
    if is_main_process():
        print(json.dumps({name: round(value, 2) for name, value in metrics.items()}, indent=1))


if __name__ == '__main__':
    main()
