"""Convert checkpoints to and from the layouts of other code bases.

``mmadclr`` and ``dino`` hold whole training states (both networks, heads, centers, optimizer), if IN does; the others hold
the backbone: ``timm`` and ``safetensors`` under timm's names, ``mmpretrain`` and ``mmseg`` under theirs.
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
    parser.add_argument('source', metavar='IN', help='file or folder of any layout this project reads')
    parser.add_argument('target', metavar='OUT', help='.pth file, or .safetensors for a layout of tensors alone')
    parser.add_argument('--to', required=True, choices=LAYOUTS, help='layout of the new file')
    add_weights_arguments(parser)
    parser.add_argument(
        '--img-size', type=positive, metavar='N', help='resize the position embedding to images of this size'
    )


def run(args: Namespace) -> None:
    """Writes the file, and prints what is in it and what is not."""
    from mmadclr.hub.conversion import convert

    result = convert(args.source, args.target, args.to, args.which, args.num_heads, args.img_size, args.prefix)
    for title, entries in (('kept', result.kept), ('not kept', result.lost)):
        for entry in entries:
            print(f'{title:>8}  {entry}')
    print(f'wrote {args.target}, read back and equal')
