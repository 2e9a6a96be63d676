"""Share a backbone on the Hugging Face hub, with its model card and results.

The backbone of CHECKPOINT is exported to a temporary folder, which must load equal, and uploaded to the repository
USER/NAME in one commit. Its card has the recorded facts, and in its metadata the results that belong to the checkpoint: of
mmadclr dense, of mmadclr adapt, and validations in the log of its run; those of other files are added with --evaluation.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from importlib.util import find_spec

from mmadclr.cli.argument_types import positive
from mmadclr.cli.arguments import add_weights_arguments
from mmadclr.cli.choices import HUB_FORMATS

USAGE = 'CHECKPOINT USER/NAME [options]'
EXAMPLE = 'work_dirs/vits16_folder/epoch_200.pth me/vits16-photos --dry-run'


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='file or folder in any supported layout')
    parser.add_argument('repository', metavar='USER/NAME', help='repository on the hub; created if there is none')
    parser.add_argument(
        '--format', choices=HUB_FORMATS, default='timm', help='library that loads it by its name (default: timm)'
    )
    parser.add_argument('--private', action='store_true', help='create a private repository')
    parser.add_argument('--overwrite', action='store_true', help='replace all files of a repository that is not empty')
    parser.add_argument(
        '--dry-run', action='store_true', help='list the files and print the card; upload nothing, without network or token'
    )
    add_weights_arguments(parser)
    parser.add_argument(
        '--img-size', type=positive, metavar='N', help='resize the position embedding to images of this size'
    )
    parser.add_argument('--evaluation', nargs='+', default=[], metavar='JSON', help='more results for the model card')
    parser.add_argument('--no-found-results', action='store_true', help='take no results but those of --evaluation')
    parser.add_argument('--data', metavar='TEXT', help='description of the pretraining images, for the model card')
    parser.add_argument(
        '--license', metavar='NAME', help='license of the weights, by its name on the hub, such as apache-2.0'
    )
    parser.add_argument('--license-file', metavar='FILE', help='text of the license, to upload as LICENSE.md')
    parser.add_argument(
        '--confirm-license',
        action='store_true',
        help='you meet the obligations of the license of the weights that training started from',
    )


def run(args: Namespace) -> None:
    """Uploads, or lists what would be uploaded."""
    if find_spec('huggingface_hub') is None:
        raise ValueError('mmadclr push needs huggingface_hub, which is not installed: pip install huggingface_hub')
    from mmadclr.push import Sharing, push_backbone

    sharing = Sharing(
        data=args.data,
        license=args.license,
        evaluations=args.evaluation,
        find=not args.no_found_results,
        license_file=args.license_file,
        confirmed=args.confirm_license,
        private=args.private,
        overwrite=args.overwrite,
    )
    where = dict(
        which=args.which, prefix=args.prefix, num_heads=args.num_heads, facts=dict(args.fact), img_size=args.img_size
    )
    done = push_backbone(args.checkpoint, args.repository, args.format, sharing, args.dry_run, **where)
    for comparison in done.comparisons:
        verdict = 'equal' if comparison.equal else 'positions are resized by another rule'
        print(f'images of {"x".join(map(str, comparison.size))}: largest difference {comparison.difference:.1e} ({verdict})')
    for name, size in done.files.items():
        print(f'{size:>12,} bytes  {name}')
    print(f'\n{done.card}\nnothing was uploaded (--dry-run)' if done.url is None else f'uploaded to {done.url}')
