"""Convert checkpoints to and from the layouts of other code bases.

``mmadclr`` and ``dino`` contain the whole training state (both networks, heads, centers, optimizer) if IN does. The others
contain only the backbone: ``timm`` and ``safetensors`` with timm's names, ``mmpretrain`` and ``mmseg`` with their own.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from mmadclr.cli.argument_types import positive
from mmadclr.cli.arguments import add_weights_arguments
from mmadclr.cli.choices import LAYOUTS

USAGE = 'IN OUT --to LAYOUT [options]'
EXAMPLE = 'work_dirs/vits16_folder/epoch_200.pth vits16.safetensors --to safetensors'


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    parser.add_argument('source', metavar='IN', help='file or folder in any supported layout')
    parser.add_argument('target', metavar='OUT', help='.pth file, or .safetensors for layouts that contain only tensors')
    parser.add_argument('--to', required=True, choices=LAYOUTS, help='layout of the new file')
    add_weights_arguments(parser)
    parser.add_argument(
        '--img-size', type=positive, metavar='N', help='resize the position embedding to images of this size'
    )


def run(args: Namespace) -> None:
    """Writes the file, and prints what it contains and what it does not."""
    from mmadclr.hub.conversion import convert

    where = dict(which=args.which, prefix=args.prefix, num_heads=args.num_heads, facts=dict(args.fact))
    result = convert(args.source, args.target, args.to, img_size=args.img_size, **where)
    for title, entries in (('kept', result.kept), ('not kept', result.lost)):
        for entry in entries:
            print(f'{title:>8}  {entry}')
    print(f'wrote {args.target}, read back and equal')
