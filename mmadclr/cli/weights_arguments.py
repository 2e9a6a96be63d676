"""Command-line arguments of every tool that reads weights, with one meaning in all of them."""

from __future__ import annotations

from argparse import ArgumentParser

from mmadclr.checkpoint.networks import WHICH
from mmadclr.cli.argument_types import positive


def add_weights_arguments(parser: ArgumentParser) -> None:
    """``--which``, ``--prefix`` and ``--num-heads``."""
    parser.add_argument(
        '--which',
        choices=WHICH,
        default='teacher',
        help='network of a file with two; averages (EMA, momentum, target) are teachers',
    )
    parser.add_argument(
        '--prefix', help='what precedes the names of the backbone in the file, where it is not found or not the right one'
    )
    parser.add_argument(
        '--num-heads', type=positive, help='attention heads, if the file does not tell, and not 64 channels each'
    )
