"""Measure mIoU of frozen patch features, by k-NN and by a linear classifier.

CHECKPOINT may have any supported layout. A config of mmadclr gives the randomly initialized backbone.
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
    for part, meaning in (('train', 'training'), ('val', 'validation')):
        parser.add_argument(
            f'--{part}',
            required=True,
            nargs=2,
            metavar=('IMAGES', 'MASKS'),
            help=f'{meaning} folders in --data-root; masks are PNG files with the same relative names as images',
        )
    parser.add_argument('--num-classes', type=positive, metavar='N', required=True)
    parser.add_argument('--ignore-index', type=int, metavar='N', default=255, help='label of ignored pixels (default: 255)')
    parser.add_argument('--reduce-zero-label', action='store_true', help='label 0 is ignored, classes start at 1 (ADE20K)')
    parser.add_argument(
        '--size',
        type=positive,
        metavar='N',
        help='image size in pixels (default: twice that of pretraining)',
    )
    parser.add_argument(
        '--max-images', type=positive, metavar='N', default=1000, help='largest number of images of each set (default: 1000)'
    )
    parser.add_argument(
        '--bank-size',
        type=positive,
        metavar='N',
        default=20_000,
        help='number of training patches to use (default: 20000)',
    )
    parser.add_argument('--k', type=positive, default=20, help='number of neighbors (default: 20)')
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
    features = 'mean' if opened.model.cls_token is None else 'cls'  # image features, which the probe does not use
    finish(args, probe.of_model(FeatureExtractor(opened, features, args.precision).to(get_device())))
