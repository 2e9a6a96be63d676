"""Print the config that a run would use, with file and line of each value."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from mmadclr.cli.arguments import add_config_arguments
from mmadclr.shipped import PACKAGE, find_config

USAGE = 'CONFIG [options]'
EXAMPLE = 'adclr/vits16_folder --key model.backbone'


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    add_config_arguments(parser)
    parser.add_argument('--key', metavar='KEY', help='print only this part, for example model.backbone')
    parser.add_argument('--out', metavar='FILE', help='write to this file, which can be used as a config')


def run(args: Namespace) -> None:
    """Prints the config, or writes it."""
    from mmadclr.files import atomic_path

    text = described(args)
    if args.out is None:
        sys.stdout.write(text)
        return
    with atomic_path(args.out) as temporary:
        temporary.write_text(text, encoding='utf-8')


def described(args: Namespace) -> str:
    """The config, each value with its origin, a path relative to the clone or to the folder of all packages."""
    from mmengine.config import Config

    from mmadclr.config.loading import load_config, overrides_of, spell_out
    from mmadclr.config.origin import find_origins, render, select

    cfg, file = load_config(args).to_dict(), find_config(args.config)
    overrides = spell_out(Config.fromfile(file), overrides_of(args))
    return render(select(cfg, args.key) if args.key else cfg, find_origins(file, overrides, Path(PACKAGE.parent)))
