"""Packs a folder of images into tar shards: ``python tools/pack_shards.py SOURCE OUT_DIR --images-per-shard 5000``.

Then, in a config, ``data_root='OUT_DIR', shards='*.tar'`` of the data set and ``type='ShardSampler'`` of the sampler.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmadclr.datasets.packing import pack_shards
from mmadclr.engine.launch import report_bad_input


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('source', help='folder of images, at any depth')
    parser.add_argument('out_dir', help='folder of the shards, empty or not there yet')
    parser.add_argument('--images-per-shard', type=int, default=5000, metavar='N')
    parser.add_argument('--with-label', action='store_true', help='class folders become labels')
    parser.add_argument('--seed', type=int, default=0, help='of the order of the images')
    return parser.parse_args()


@report_bad_input
def main() -> None:
    shards = pack_shards(**vars(parse_args()))
    size = sum(shard.stat().st_size for shard in shards)
    print(f'{len(shards)} shards, {size / 1e6:.1f} MB: {shards[0]} to {shards[-1].name}')


if __name__ == '__main__':
    main()
