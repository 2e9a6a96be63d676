"""The commands and their parsers, built without slow imports.

Each command is a module of this folder. The first paragraph of its docstring says what it does, ``USAGE`` and ``EXAMPLE``
show how to call it, ``add_arguments(parser)`` adds its arguments, and ``run(args)`` runs it and imports what it needs.
"""

from __future__ import annotations

import argparse
import inspect
import textwrap
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn

from mmadclr import __version__

COMMANDS = (
    *('train', 'adapt', 'test', 'knn', 'linear', 'probe', 'dense', 'compare', 'export', 'push', 'convert'),
    *('show', 'watch', 'report', 'check-data', 'print-config', 'list-configs', 'pack', 'demo', 'completion'),
)
FIRST = 'mmadclr train adclr/vits16_folder --data my_images'
# They have no slow imports and report errors by ``Parser.error``.
LIGHT = ('list-configs', 'completion', 'watch')


class Formatter(argparse.HelpFormatter):
    """Wraps each paragraph to the width of the terminal; indented paragraphs, such as examples, are not changed."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip('\n').split('\n\n')
        return '\n\n'.join(part if part[:1] == ' ' else textwrap.fill(' '.join(part.split()), width) for part in paragraphs)


class Parser(argparse.ArgumentParser):
    """Reports errors in one line that points to the help; its help text has paragraphs."""

    def __init__(self, **settings) -> None:
        super().__init__(**{'formatter_class': Formatter, **settings})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'{self.prog}: error: {message} ({self.prog} --help)\n')


def module_of(command: str) -> ModuleType:
    """The module of a command."""
    return import_module(f'mmadclr.cli.{command.replace("-", "_")}')


def description(module: ModuleType) -> str:
    """What a command does."""
    return inspect.cleandoc(module.__doc__ or '')


def summary(module: ModuleType) -> str:
    """What a command does, in one line."""
    return description(module).partition('\n')[0]


def settings_of(module: ModuleType, prog: str) -> dict[str, Any]:
    """Settings of the parser of a command."""
    example = f'example:\n\n    {prog} {module.EXAMPLE}'
    return dict(description=description(module), usage=f'{prog} {module.USAGE}', epilog=example)


def command_parser(command: str, prog: str) -> Parser:
    """Parser of one command; ``prog`` is its name in messages."""
    module = module_of(command)
    parser = Parser(prog=prog, **settings_of(module, prog))
    module.add_arguments(parser)
    return parser


def build_parser() -> Parser:
    """Parser of the whole program, with all commands."""
    parser = Parser(
        prog='mmadclr',
        usage='mmadclr COMMAND [arguments]',
        description='Dense self-supervised pretraining of vision transformers.',
        epilog=f'example:\n\n    {FIRST}\n\nmmadclr COMMAND --help describes a command.',
    )
    parser.add_argument('--version', action='version', version=f'mmadclr {__version__}')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', title='commands', required=True)
    for command in COMMANDS:
        module = module_of(command)
        child = commands.add_parser(command, help=summary(module), **settings_of(module, f'mmadclr {command}'))
        module.add_arguments(child)
    return parser
