"""Arguments of the commands that evaluate frozen features; :mod:`mmadclr.cli.evaluation` uses them."""

from __future__ import annotations

from argparse import ArgumentParser

from mmadclr.cli.argument_types import natural, positive
from mmadclr.cli.arguments import add_launcher_arguments, add_weights_arguments
from mmadclr.cli.choices import BACKENDS, DTYPES, FEATURES, PRECISIONS


def add_backbone_arguments(parser: ArgumentParser, batch_size: int = 128) -> None:
    """``checkpoint`` and how to read it, how to load images, where to write the result, and the launcher's arguments."""
    parser.add_argument(
        'checkpoint',
        metavar='CHECKPOINT',
        help='file or folder in any supported layout; or a config of mmadclr, for a randomly initialized backbone',
    )
    add_weights_arguments(parser)
    parser.add_argument(
        '--batch-size',
        type=positive,
        metavar='N',
        default=batch_size,
        help=f'images per batch and process (default: {batch_size})',
    )
    parser.add_argument(
        '--workers',
        type=natural,
        metavar='N',
        help='loader workers of each process (default: one per core, at most 16)',
    )
    parser.add_argument(
        '--read',
        choices=BACKENDS,
        default='fast',
        help='pillow: decode and resize with Pillow, bit-identical to published protocols',
    )
    parser.add_argument(
        '--precision', choices=PRECISIONS, default='fp32', help='precision of the backbone; bf16 uses autocast'
    )
    parser.add_argument('--out', metavar='FILE', help='write the full result as JSON, including parts that are not printed')
    add_launcher_arguments(parser)


def add_image_arguments(parser: ArgumentParser) -> None:
    """Two labeled image sets, the kind of features, and few-shot subsets of the first set."""
    parser.add_argument('--train', required=True, metavar='DIR', help='images to learn from, in class folders')
    parser.add_argument('--val', required=True, metavar='DIR', help='images to classify, in class folders')
    parser.add_argument(
        '--train-list', metavar='FILE', help='text file; each line has a path relative to --train and an integer label'
    )
    parser.add_argument('--val-list', metavar='FILE', help='the same for --val')
    parser.add_argument('--shards', metavar='GLOB', help="tar shards in both folders, for example '*.tar'")
    parser.add_argument('--size', type=positive, metavar='N', help='image size in pixels (default: that of pretraining)')
    parser.add_argument(
        '--resize', type=positive, metavar='N', help='short side before the center crop (default: 8/7 of the size)'
    )
    parser.add_argument('--features', choices=FEATURES, help='feature of an image (default: as in DINO)')
    parser.add_argument('--dtype', choices=DTYPES, default='float16', help='dtype in which features are stored')
    parser.add_argument('--cache', metavar='DIR', help='folder to store features in and to reuse them from')
    parser.add_argument('--refresh', action='store_true', help='extract features again even if the cache has them')
    parser.add_argument(
        '--max-unreadable',
        type=natural,
        metavar='N',
        default=100,
        help='largest number of unreadable images to skip in a set (default: 100)',
    )
    add_pixel_arguments(parser)
    parser.add_argument('--shots', type=positive, metavar='N', help='learn from N random images of each class')
    parser.add_argument(
        '--runs',
        type=positive,
        metavar='N',
        default=1,
        help='number of random draws with --shots, to report mean and standard deviation',
    )
    parser.add_argument(
        '--seed', type=natural, metavar='N', default=0, help='seed of the first draw and of training (default: 0)'
    )


def add_pixel_arguments(parser: ArgumentParser) -> None:
    """How to interpret pixels, where image files do not say it; see :class:`mmadclr.datasets.pixels.PixelOptions`."""
    parser.add_argument(
        '--value-range',
        type=float,
        nargs=2,
        metavar=('LOW', 'HIGH'),
        help='pixel values of black and white in images with more than 8 bits or floats',
    )
    parser.add_argument(
        '--bands',
        type=natural,
        nargs=3,
        metavar=('R', 'G', 'B'),
        help='bands to use as RGB, counted from 0, in multi-band images',
    )
    parser.add_argument('--max-pixels', type=positive, metavar='N', help='largest number of pixels of an image')
