"""Packs a folder of images into tar shards: ``python tools/pack_shards.py SOURCE OUT_DIR --images-per-shard 5000``.

Then, in a config, ``data_root='OUT_DIR', shards='*.tar'`` of the data set and ``type='ShardSampler'`` of the sampler.
With ``--max-side 512``, large photographs are made smaller: crops of 224 pixels are cut from them in a quarter of the time.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmadclr.cli.launch import report_bad_input
from mmadclr.datasets.packing import pack_shards
from mmadclr.datasets.pixels import pixel_options


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('source', help='folder of images, at any depth')
    parser.add_argument('out_dir', help='folder of the shards, empty or not there yet')
    parser.add_argument('--images-per-shard', type=int, default=5000, metavar='N')
    parser.add_argument('--with-label', action='store_true', help='class folders become labels')
    parser.add_argument('--seed', type=int, default=0, help='of the order of the images')
    parser.add_argument(
        '--max-side', type=int, metavar='PIXELS', help='images with a longer side above it become JPEG of this size (512)'
    )
    parser.add_argument('--quality', type=int, default=90, help='of those JPEG files, 1 to 100 (90)')
    parser.add_argument('--value-range', type=float, nargs=2, metavar=('LOW', 'HIGH'), help='of larger images of 16 bits')
    parser.add_argument('--max-pixels', type=int, metavar='N', help='larger images are not decoded but packed as they are')
    parser.add_argument('--num-workers', type=int, default=1, metavar='N', help='processes (1)')
    return parser.parse_args()


@report_bad_input
def main() -> None:
    args = vars(parse_args())
    options = pixel_options(args.pop('value_range'), None, args.pop('max_pixels'))
    shards = pack_shards(**args, options=options)
    size = sum(shard.stat().st_size for shard in shards)
    print(f'{len(shards)} shards, {size / 1e6:.1f} MB: {shards[0]} to {shards[-1].name}')


if __name__ == '__main__':
    main()
