"""Measure mIoU of frozen patch features, by k-NN and by a linear classifier.

CHECKPOINT may be of any known layout, or a config of ours for the randomly initialized backbone.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from mmadclr.cli.argument_types import positive
from mmadclr.cli.evaluation_arguments import add_backbone_arguments, add_pixel_arguments

USAGE = 'CHECKPOINT --data-root DIR --train IMAGES MASKS --val IMAGES MASKS --num-classes N [options]'
EXAMPLE = (
    'work_dirs/vits16_in1k/epoch_800.pth --data-root data/ade/ADEChallengeData2016 --train images/training '
    'annotations/training --val images/validation annotations/validation --num-classes 150 --reduce-zero-label'
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
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
    parser.add_argument('--num-classes', type=positive, metavar='N', required=True)
    parser.add_argument('--ignore-index', type=int, metavar='N', default=255, help='label of pixels that do not count (255)')
    parser.add_argument('--reduce-zero-label', action='store_true', help='0 is no class, classes start at 1 (ADE20K)')
    parser.add_argument(
        '--size',
        type=positive,
        metavar='N',
        help='side in pixels images are brought to; twice that of pretraining by default',
    )
    parser.add_argument(
        '--max-images', type=positive, metavar='N', default=1000, help='of the training and of the validation set (1000)'
    )
    parser.add_argument(
        '--bank-size',
        type=positive,
        metavar='N',
        default=20_000,
        help='patches of the training images that are used (20000)',
    )
    parser.add_argument('--k', type=positive, default=20, help='number of neighbors (20)')
    add_pixel_arguments(parser)


def run(args: Namespace) -> None:
    """Prints the scores as JSON."""
    from mmengine.device import get_device

    from mmadclr.cli.evaluation import finish, open_source, pixel_arguments, start_processes, workers
    from mmadclr.evaluation import DenseProbe
    from mmadclr.evaluation.extractor import FeatureExtractor

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
    probe = DenseProbe(train, val, k=args.k, bank_size=args.bank_size, batch_size=args.batch_size, num_workers=workers(args))
    features = 'mean' if opened.model.cls_token is None else 'cls'  # of whole images, which the probe does not ask for
    finish(args, probe.of_model(FeatureExtractor(opened, features, args.precision).to(get_device())))
