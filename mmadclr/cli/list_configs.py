"""List the configs that come with mmadclr, each with what it says of itself.

Of several WORDs, all have to be in the name or the line.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping

from mmadclr.shipped import first_line, shipped_configs

USAGE = '[WORD ...]'
EXAMPLE = 'adclr small'
NARROWEST = 40  # columns for what a config says, beside the longest name


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    parser.add_argument('words', nargs='*', metavar='WORD', help='list only those with it in the name or the line')


def run(args: Namespace, parser: ArgumentParser) -> None:
    """Prints the list: a line each where the output is no terminal, else within its width."""
    found = {name: first_line(path) for name, path in shipped_configs().items()}
    for word in args.words:
        found = {name: text for name, text in found.items() if word.lower() in f'{name} {text}'.lower()}
    if not found:
        parser.error(f'no config that comes with mmadclr has {" and ".join(map(repr, args.words))} in its name or line')
    width = shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None
    print('\n'.join(lines_of(found, width)))


def lines_of(texts: Mapping[str, str], width: int | None) -> list[str]:
    """Names and texts in two columns; where those do not fit the width, each text below its name. None: any width."""
    column = max(map(len, texts)) + 2
    if width is None:
        return [f'{name:<{column}}{text}' for name, text in texts.items()]
    if width - column < NARROWEST:
        return [line for name, text in texts.items() for line in (name, *wrapped(text, width - 4, 4))]
    return [name.ljust(column) + '\n'.join(wrapped(text, width, column))[column:] for name, text in texts.items()]


def wrapped(text: str, width: int, indent: int) -> list[str]:
    """Lines of a text that begins ``indent`` columns to the right."""
    return textwrap.wrap(text, width, initial_indent=' ' * indent, subsequent_indent=' ' * indent)
