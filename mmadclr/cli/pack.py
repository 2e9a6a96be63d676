"""Pack a folder of images into tar shards.

To use them, set ``data_root='OUT_DIR', shards='*.tar'`` of the data set and ``type='ShardSampler'`` of the sampler in a
config. With ``--max-side 512``, large photographs are downscaled, and cropping views of 224 pixels takes a quarter of the
time.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

USAGE = 'SOURCE OUT_DIR [options]'
EXAMPLE = 'data/imagenet/train data/imagenet-shards --images-per-shard 5000 --with-label'


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    parser.add_argument('source', metavar='SOURCE', help='folder of images in subfolders of any depth')
    parser.add_argument('out_dir', metavar='OUT_DIR', help='folder for the shards; it must be empty or not exist')
    parser.add_argument(
        '--images-per-shard', type=int, default=5000, metavar='N', help='number of images in a shard (default: 5000)'
    )
    parser.add_argument('--with-label', action='store_true', help='use class folders as labels')
    parser.add_argument('--seed', type=int, metavar='N', default=0, help='seed of the order of the images (default: 0)')
    parser.add_argument(
        '--max-side', type=int, metavar='PIXELS', help='images with a longer side above it become JPEG of this size (512)'
    )
    parser.add_argument(
        '--quality', type=int, metavar='N', default=90, help='quality of the downscaled JPEG files, 1 to 100 (default: 90)'
    )
    parser.add_argument(
        '--value-range',
        type=float,
        nargs=2,
        metavar=('LOW', 'HIGH'),
        help='pixel values of black and white in large 16-bit images',
    )
    parser.add_argument(
        '--max-pixels', type=int, metavar='N', help='pack images with more pixels unchanged, without decoding them'
    )
    parser.add_argument('--num-workers', type=int, default=1, metavar='N', help='number of processes (default: 1)')


def run(args: Namespace) -> None:
    """Writes the shards, and prints their number and size."""
    from mmadclr.datasets.packing import pack_shards
    from mmadclr.datasets.pixels import pixel_options

    settings = vars(args)
    options = pixel_options(settings.pop('value_range'), None, settings.pop('max_pixels'))
    shards = pack_shards(**settings, options=options)
    size = sum(shard.stat().st_size for shard in shards)
    print(f'{len(shards)} shards, {size / 1e6:.1f} MB: {shards[0]} to {shards[-1].name}')
