"""Draw what backbones have learned: attention, features, matches, objects.

CHECKPOINT may have any supported layout, or be a config of mmadclr, for a randomly initialized backbone. IMAGES are files
and folders. --against adds checkpoints, which are drawn side by side. Figures are PNG files, or with --html one page to
explore in a browser.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from mmadclr.cli.argument_types import positive
from mmadclr.cli.arguments import add_weights_arguments
from mmadclr.cli.choices import SHOWN

if TYPE_CHECKING:
    from mmadclr.show import Study

USAGE = 'CHECKPOINT IMAGES... [--against OTHER] [options]'
EXAMPLE = 'epoch_200.pth photos --against epoch_10.pth --what pca,attention --size 448'
PAIRED = ('neighbors', 'correspondence')  # what one image alone cannot show
PAGE = 'explore.html'


def kinds(text: str) -> list[str]:
    """Names of figures, separated by commas."""
    names = [name for name in text.split(',') if name]
    unknown = [name for name in names if name not in SHOWN]
    if unknown or not names:
        raise ArgumentTypeError(f'{(unknown or [text])[0]!r} is unknown; choose some of {",".join(SHOWN)}')
    return list(dict.fromkeys(names))


def names(text: str) -> list[str]:
    """Names separated by commas, all different."""
    found = [name.strip() for name in text.split(',')]
    if '' in found or len(set(found)) < len(found):
        raise ArgumentTypeError(f'{text!r} must be different names, separated by commas')
    return found


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='file or folder in any supported layout, or a config')
    parser.add_argument('images', nargs='+', metavar='IMAGES', help='image files, and folders of images')
    parser.add_argument(
        '--against', action='append', default=[], metavar='CKPT', help='another checkpoint, to compare; may be repeated'
    )
    parser.add_argument(
        '--names', type=names, metavar='A,B', help='names of the checkpoints in figures (default: of the files)'
    )
    parser.add_argument(
        '--what', type=kinds, metavar='KINDS', help=f'some of {",".join(SHOWN)} (default: all that are possible)'
    )
    parser.add_argument(
        '--html', action='store_true', help=f'write {PAGE}, one page to explore, instead of figures (with --what: both)'
    )
    parser.add_argument('--out', metavar='DIR', default='pictures', help='folder to write to (default: pictures)')
    parser.add_argument(
        '--size', type=positive, metavar='N', default=448, help='pixels of the longer side of each image (default: 448)'
    )
    parser.add_argument(
        '--max-images',
        type=positive,
        metavar='N',
        default=24,
        help='of more images, use N that are evenly spread (default: 24)',
    )
    parser.add_argument(
        '--box',
        type=float,
        nargs=4,
        metavar=('L', 'T', 'R', 'B'),
        help='query crop: left, top, right, bottom in fractions of the sides (default: the center)',
    )
    parser.add_argument(
        '--query-size', type=positive, metavar='N', help='pixels of the resized query crop (default: one patch)'
    )
    add_weights_arguments(parser)


def run(args: Namespace) -> None:
    """Writes the figures, and prints their names."""
    from mmadclr.files import check_writable

    check_writable(Path(args.out, PAGE))
    study = make_study(args)
    if args.what or not args.html:
        draw(study, args)
    if args.html:
        from mmadclr.show.page import write_page

        path = Path(args.out, PAGE)
        print(f'{path}: {write_page(study, path)}')


def make_study(args: Namespace) -> Study:
    """Opens images and checkpoints.

    Raises:
        FileNotFoundError, ValueError: One cannot be read, or there are more or fewer names than checkpoints.
    """
    from mmadclr.cli.evaluation import open_source
    from mmadclr.show.pictures import find_files, readable, spread
    from mmadclr.show.study import Study, model_names

    checkpoints = [args.checkpoint, *args.against]
    titles = args.names or model_names(checkpoints)
    if len(titles) != len(checkpoints):
        raise ValueError(f'--names gives {len(titles)} names for {len(checkpoints)} checkpoints')
    files = find_files(args.images)
    if len(files) > args.max_images:
        print(f'note: {args.max_images} of {len(files)} images are shown, evenly spread; --max-images shows more')
    shown, problems = readable(spread(files, args.max_images), args.images)
    for problem in problems:
        print(f'note: {problem.removesuffix(": leave it out")}; it is left out')
    opened = [open_source(Namespace(**{**vars(args), 'checkpoint': checkpoint})) for checkpoint in checkpoints]
    return Study(dict(zip(titles, opened, strict=True)), shown, args.size)


def possible(study: Study) -> list[str]:
    """All figures that these backbones and images can give; prints what is left out."""
    left_out = list(PAIRED) if len(study.pictures) == 1 else []
    if left_out:
        print(f'note: {" and ".join(left_out)} need at least two images and are left out')
    without = [subject.name for subject in study.subjects if not subject.has_cls]
    if without:
        print(f'note: attention is left out: {", ".join(without)} without class token')
        left_out.append('attention')
    return [kind for kind in SHOWN if kind not in left_out]


def draw(study: Study, args: Namespace) -> None:
    """Writes the figures ``--what``, each as one or several pages.

    Raises:
        ValueError: One of them is not possible.
    """
    from mmadclr.files import atomic_path
    from mmadclr.show.plots import KINDS
    from mmadclr.show.query_crops import BOX

    for kind in args.what or possible(study):
        settings = dict(box=args.box or BOX, side=args.query_size) if kind == 'queries' else {}
        pages = KINDS[kind](study, **settings)
        for number, page in enumerate(pages, start=1):
            path = Path(args.out, f'{kind}_{number}.png' if len(pages) > 1 else f'{kind}.png')
            with atomic_path(path) as temporary:
                page.savefig(temporary, dpi=130)
            print(path)
