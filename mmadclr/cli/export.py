"""Write a backbone for timm, transformers, onnxruntime or TorchScript."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from mmadclr.cli.argument_types import positive
from mmadclr.cli.arguments import add_weights_arguments
from mmadclr.cli.choices import FORMATS

USAGE = 'CHECKPOINT FOLDER --format FORMAT [options]'
EXAMPLE = 'work_dirs/vits16_folder/epoch_200.pth my_vit --format timm'


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='file or folder in any supported layout')
    parser.add_argument('folder', metavar='FOLDER', help='folder to write; it must be empty or not exist')
    parser.add_argument('--format', required=True, choices=FORMATS)
    add_weights_arguments(parser)
    parser.add_argument(
        '--img-size', type=positive, metavar='N', help='resize the position embedding to images of this size'
    )
    parser.add_argument('--evaluation', nargs='+', default=[], metavar='JSON', help='results for the model card')
    parser.add_argument('--name', help='title of the model card (default: the name of the folder)')
    parser.add_argument('--data', metavar='TEXT', help='description of the pretraining images, for the model card')
    parser.add_argument('--license', metavar='TEXT', help='license of the weights, for the model card')


def run(args: Namespace) -> None:
    """Writes the folder, and prints how much its outputs differ from the backbone."""
    from mmadclr.hub.export import CardText, export_backbone

    text = CardText(args.name, args.data, args.license, args.evaluation)
    where = dict(which=args.which, prefix=args.prefix, num_heads=args.num_heads, facts=dict(args.fact))
    comparisons = export_backbone(args.checkpoint, args.folder, args.format, img_size=args.img_size, text=text, **where)
    for comparison in comparisons:
        verdict = 'equal' if comparison.equal else 'positions are resized by another rule'
        print(f'images of {"x".join(map(str, comparison.size))}: largest difference {comparison.difference:.1e} ({verdict})')
    print(f'{args.folder}: weights, configuration and README.md')
