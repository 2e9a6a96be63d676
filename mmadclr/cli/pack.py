"""Pack a folder of images into tar shards.

Then, in a config, ``data_root='OUT_DIR', shards='*.tar'`` of the data set and ``type='ShardSampler'`` of the sampler.
With ``--max-side 512``, large photographs are made smaller: crops of 224 pixels are cut from them in a quarter of the time.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

USAGE = 'SOURCE OUT_DIR [options]'
EXAMPLE = 'data/imagenet/train data/imagenet-shards --images-per-shard 5000 --with-label'


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    parser.add_argument('source', metavar='SOURCE', help='folder of images, at any depth')
    parser.add_argument('out_dir', metavar='OUT_DIR', help='folder of the shards, empty or not there yet')
    parser.add_argument('--images-per-shard', type=int, default=5000, metavar='N', help='5000 by default')
    parser.add_argument('--with-label', action='store_true', help='class folders become labels')
    parser.add_argument('--seed', type=int, metavar='N', default=0, help='of the order of the images (0)')
    parser.add_argument(
        '--max-side', type=int, metavar='PIXELS', help='images with a longer side above it become JPEG of this size (512)'
    )
    parser.add_argument('--quality', type=int, metavar='N', default=90, help='of those JPEG files, 1 to 100 (90)')
    parser.add_argument('--value-range', type=float, nargs=2, metavar=('LOW', 'HIGH'), help='of larger images of 16 bits')
    parser.add_argument('--max-pixels', type=int, metavar='N', help='larger images are not decoded but packed as they are')
    parser.add_argument('--num-workers', type=int, default=1, metavar='N', help='processes (1)')


def run(args: Namespace) -> None:
    """Writes the shards, and prints how many there are."""
    from mmadclr.datasets.packing import pack_shards
    from mmadclr.datasets.pixels import pixel_options

    settings = vars(args)
    options = pixel_options(settings.pop('value_range'), None, settings.pop('max_pixels'))
    shards = pack_shards(**settings, options=options)
    size = sum(shard.stat().st_size for shard in shards)
    print(f'{len(shards)} shards, {size / 1e6:.1f} MB: {shards[0]} to {shards[-1].name}')
