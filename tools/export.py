"""A backbone for timm, transformers, onnxruntime or TorchScript: ``python tools/export.py CHECKPOINT FOLDER --format F``."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmadclr.cli.argument_types import positive
from mmadclr.cli.launch import report_bad_input
from mmadclr.cli.weights_arguments import add_weights_arguments
from mmadclr.hub.export import FORMATS, CardText, export_backbone


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoint', help='file or folder of ours or in a known layout of another code base')
    parser.add_argument('folder', help='must not exist, or be empty')
    parser.add_argument('--format', required=True, choices=FORMATS)
    add_weights_arguments(parser)
    parser.add_argument('--img-size', type=positive, help='resize the position embedding to images of this size')
    parser.add_argument('--evaluation', nargs='+', default=[], metavar='JSON', help='results for the model card')
    parser.add_argument('--name', help='title of the model card; the name of the folder by default')
    parser.add_argument('--data', help='images it was pretrained on, for the model card')
    parser.add_argument('--license', help='license of the weights, for the model card')
    return parser.parse_args()


@report_bad_input
def main() -> None:
    args = parse_args()
    text = CardText(args.name, args.data, args.license, args.evaluation)
    where = dict(which=args.which, prefix=args.prefix, num_heads=args.num_heads)
    comparisons = export_backbone(args.checkpoint, args.folder, args.format, img_size=args.img_size, text=text, **where)
    for comparison in comparisons:
        verdict = 'equal' if comparison.equal else 'positions are resized by another rule'
        print(f'images of {"x".join(map(str, comparison.size))}: largest difference {comparison.difference:.1e} ({verdict})')
    print(f'{args.folder}: weights, configuration and README.md')


if __name__ == '__main__':
    main()
