"""List the configs of mmadclr with a description of each.

If there are several WORDs, a config is listed if its name or description contains all of them.
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
NARROWEST = 40  # smallest width of the column of descriptions


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    parser.add_argument('words', nargs='*', metavar='WORD', help='list only configs with WORD in the name or description')


def run(args: Namespace, parser: ArgumentParser) -> None:
    """Prints the list; in a terminal, lines are wrapped to its width."""
    found = {name: first_line(path) for name, path in shipped_configs().items()}
    for word in args.words:
        found = {name: text for name, text in found.items() if word.lower() in f'{name} {text}'.lower()}
    if not found:
        parser.error(f'no config of mmadclr has {" and ".join(map(repr, args.words))} in its name or description')
    width = shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None
    print('\n'.join(lines_of(found, width)))


def lines_of(texts: Mapping[str, str], width: int | None) -> list[str]:
    """Names and texts in two columns; if they do not fit the width, each text is below its name. None: any width."""
    column = max(map(len, texts)) + 2
    if width is None:
        return [f'{name:<{column}}{text}' for name, text in texts.items()]
    if width - column < NARROWEST:
        return [line for name, text in texts.items() for line in (name, *wrapped(text, width - 4, 4))]
    return [name.ljust(column) + '\n'.join(wrapped(text, width, column))[column:] for name, text in texts.items()]


def wrapped(text: str, width: int, indent: int) -> list[str]:
    """Lines of a text that begins ``indent`` columns to the right."""
    return textwrap.wrap(text, width, initial_indent=' ' * indent, subsequent_indent=' ' * indent)
