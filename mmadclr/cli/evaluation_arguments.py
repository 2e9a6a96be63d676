"""Arguments of the commands that evaluate frozen features; what is done with them is in :mod:`mmadclr.cli.evaluation`."""

from __future__ import annotations

from argparse import ArgumentParser

from mmadclr.cli.argument_types import natural, positive
from mmadclr.cli.arguments import add_launcher_arguments, add_weights_arguments
from mmadclr.cli.choices import BACKENDS, DTYPES, FEATURES, PRECISIONS


def add_backbone_arguments(parser: ArgumentParser, batch_size: int = 128) -> None:
    """``checkpoint``, how to read it, how to load images, where to write the result, and the launcher's arguments."""
    parser.add_argument(
        'checkpoint',
        metavar='CHECKPOINT',
        help='file or folder of any known layout; or a config of ours, whose backbone is then randomly initialized',
    )
    add_weights_arguments(parser)
    parser.add_argument(
        '--batch-size',
        type=positive,
        metavar='N',
        default=batch_size,
        help=f'images a process encodes at a time ({batch_size})',
    )
    parser.add_argument(
        '--workers',
        type=natural,
        metavar='N',
        help='processes that read images, for each process; by default one for each core, 16 at most',
    )
    parser.add_argument(
        '--read', choices=BACKENDS, default='fast', help='pillow: decoded and resized by Pillow, as published, to the bit'
    )
    parser.add_argument('--precision', choices=PRECISIONS, default='fp32', help='of the backbone; bf16 by autocast')
    parser.add_argument('--out', metavar='FILE', help='write the whole result as JSON, with the parts that are not printed')
    add_launcher_arguments(parser)


def add_image_arguments(parser: ArgumentParser) -> None:
    """Two labeled image sets, what to take for their features, and few-shot subsets of the first."""
    parser.add_argument('--train', required=True, metavar='DIR', help='images to learn from, in class folders')
    parser.add_argument('--val', required=True, metavar='DIR', help='images to classify, in class folders')
    parser.add_argument('--train-list', metavar='FILE', help='lines of a path below --train and an integer label')
    parser.add_argument('--val-list', metavar='FILE', help='the same for --val')
    parser.add_argument('--shards', metavar='GLOB', help="tar shards in both folders, for example '*.tar'")
    parser.add_argument('--size', type=positive, metavar='N', help='side of the images; that of pretraining by default')
    parser.add_argument(
        '--resize', type=positive, metavar='N', help='short side before the center crop; 8/7 of the size by default'
    )
    parser.add_argument('--features', choices=FEATURES, help='feature of an image; by default what DINO takes')
    parser.add_argument('--dtype', choices=DTYPES, default='float16', help='in which features are kept')
    parser.add_argument('--cache', metavar='DIR', help='keep features there, and use those that are')
    parser.add_argument('--refresh', action='store_true', help='extract anew what the cache holds')
    parser.add_argument(
        '--max-unreadable', type=natural, metavar='N', default=100, help='images of a set that may be left out (100)'
    )
    add_pixel_arguments(parser)
    parser.add_argument(
        '--shots', type=positive, metavar='N', help='learn from so many images of each class, drawn at random'
    )
    parser.add_argument(
        '--runs', type=positive, metavar='N', default=1, help='draws of --shots, for mean and standard deviation'
    )
    parser.add_argument('--seed', type=natural, metavar='N', default=0, help='of the first draw, and of training (0)')


def add_pixel_arguments(parser: ArgumentParser) -> None:
    """What image files do not say about their pixels; see :class:`mmadclr.datasets.pixels.PixelOptions`."""
    parser.add_argument(
        '--value-range',
        type=float,
        nargs=2,
        metavar=('LOW', 'HIGH'),
        help='values of black and white in images of more than 8 bits or floats',
    )
    parser.add_argument(
        '--bands', type=natural, nargs=3, metavar=('R', 'G', 'B'), help='bands, from 0, of images of several bands'
    )
    parser.add_argument('--max-pixels', type=positive, metavar='N', help='pixels an image may have')
