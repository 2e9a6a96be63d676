"""mIoU of frozen patch features by k-NN and by a linear classifier: ``python tools/dense_probe.py CHECKPOINT ...``.

CHECKPOINT may be of any known layout, or a config of ours for the randomly initialized backbone.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmengine.device import get_device

from mmadclr.cli.argument_types import positive
from mmadclr.cli.evaluation import (
    add_backbone_arguments,
    add_pixel_arguments,
    finish,
    open_source,
    pixel_arguments,
    start_processes,
)
from mmadclr.cli.launch import report_bad_input
from mmadclr.evaluation import DenseProbe
from mmadclr.evaluation.extractor import FeatureExtractor


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_backbone_arguments(parser, batch_size=32)
    parser.add_argument('--data-root', required=True, metavar='DIR', help='folder of images and masks')
    for part, meaning in (('train', 'classifiers learn from'), ('val', 'are scored on')):
        parser.add_argument(
            f'--{part}',
            required=True,
            nargs=2,
            metavar=('IMAGES', 'MASKS'),
            help=f'folders below it that {meaning}; masks are PNG files of the same relative names',
        )
    parser.add_argument('--num-classes', type=positive, required=True)
    parser.add_argument('--ignore-index', type=int, default=255, help='label of pixels that do not count')
    parser.add_argument('--reduce-zero-label', action='store_true', help='0 is no class, classes start at 1 (ADE20K)')
    parser.add_argument(
        '--size', type=positive, help='side in pixels images are brought to; twice that of pretraining by default'
    )
    parser.add_argument('--max-images', type=positive, default=1000, help='of the training and of the validation set')
    parser.add_argument('--bank-size', type=positive, default=20_000, help='patches of the training images that are used')
    parser.add_argument('--k', type=positive, default=20, help='number of neighbors')
    add_pixel_arguments(parser)
    return parser.parse_args()


@report_bad_input
def main() -> None:
    args = parse_args()
    start_processes(args)
    opened = open_source(args)
    train = dict(
        data_root=args.data_root,
        img_dir=args.train[0],
        mask_dir=args.train[1],
        size=args.size or 2 * max(opened.img_size),
        num_classes=args.num_classes,
        ignore_index=args.ignore_index,
        reduce_zero_label=args.reduce_zero_label,
        max_images=args.max_images,
        backend=args.read,
        **pixel_arguments(args),
    )
    val = dict(img_dir=args.val[0], mask_dir=args.val[1])
    probe = DenseProbe(train, val, k=args.k, bank_size=args.bank_size, batch_size=args.batch_size, num_workers=args.workers)
    features = 'mean' if opened.model.cls_token is None else 'cls'  # of whole images, which the probe does not ask for
    finish(args, probe.of_model(FeatureExtractor(opened, features, args.precision).to(get_device())))


if __name__ == '__main__':
    main()
