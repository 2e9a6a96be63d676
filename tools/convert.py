"""Checkpoints to and from the layouts of other code bases: ``python tools/convert.py IN OUT --to LAYOUT``.

``mmadclr`` and ``dino`` hold whole training states (both networks, heads, centers, optimizer), if IN does; the others hold
the backbone: ``timm`` and ``safetensors`` under timm's names, ``mmpretrain`` and ``mmseg`` under theirs.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmadclr.cli.argument_types import positive
from mmadclr.cli.launch import report_bad_input
from mmadclr.cli.weights_arguments import add_weights_arguments
from mmadclr.hub.conversion import LAYOUTS, convert


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='IN', help='file or folder of any layout this project reads')
    parser.add_argument('target', metavar='OUT', help='.pth file, or .safetensors for a layout of tensors alone')
    parser.add_argument('--to', required=True, choices=LAYOUTS, help='layout of the new file')
    add_weights_arguments(parser)
    parser.add_argument('--img-size', type=positive, help='resize the position embedding to images of this size')
    return parser.parse_args()


@report_bad_input
def main() -> None:
    args = parse_args()
    result = convert(args.source, args.target, args.to, args.which, args.num_heads, args.img_size, args.prefix)
    for title, entries in (('kept', result.kept), ('not kept', result.lost)):
        for entry in entries:
            print(f'{title:>8}  {entry}')
    print(f'wrote {args.target}, read back and equal')


if __name__ == '__main__':
    main()
