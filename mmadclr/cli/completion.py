"""Print a script that completes commands, options and config names."""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from collections.abc import Iterator
from types import ModuleType

from mmadclr.shipped import shipped_configs

USAGE = 'SHELL'
SHELLS = ('bash', 'zsh', 'tcsh')
EXAMPLE = 'bash > ~/.local/share/bash-completion/completions/mmadclr'
# Metavars of arguments that are files.
FILES = {
    'CHECKPOINT',
    'CKPT',
    'DIR',
    'FILE',
    'FILE.pkl',
    'FOLDER',
    'IMAGES',
    'IN',
    'JSON',
    'OUT',
    'OUT_DIR',
    'SOURCE',
    'WORK_DIR',
}
CONFIGS = {'bash': '_mmadclr_configs', 'zsh': '_mmadclr_configs', 'tcsh': 'f'}
FUNCTIONS = {
    'bash': '_mmadclr_configs() {{ compgen -W "{names}" -- "$1"; compgen -f -- "$1"; }}',
    'zsh': "_mmadclr_configs() {{ _alternative 'configs:config:({names})' 'files:file:_files'; }}",
    'tcsh': '',
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    parser.add_argument('shell', choices=SHELLS, metavar='SHELL', help=', '.join(SHELLS))


def run(args: Namespace, parser: ArgumentParser) -> None:
    """Prints the script."""
    try:
        import shtab
    except ImportError:
        parser.error("completion needs shtab: pip install 'mmadclr[completion]'")
    print(script_for(args.shell, shtab))


def script_for(shell: str, shtab: ModuleType) -> str:
    """The script for a shell, which also completes files and the names of the configs of this installation."""
    from mmadclr.cli.parsers import build_parser  # imported here because it imports this module

    parser = build_parser()
    for action in actions_of(parser):
        if action.metavar == 'CONFIG':
            action.complete = CONFIGS  # type: ignore[attr-defined]  # read by shtab
        elif action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # as above
    names = FUNCTIONS[shell].format(names=' '.join(shipped_configs()))
    return shtab.complete(parser, shell=shell, preamble={shell: names})


def actions_of(parser: ArgumentParser) -> Iterator[Action]:
    """All arguments of a parser and of the parsers of its commands."""
    for action in parser._actions:
        yield action
        for child in dict.fromkeys(action.choices.values()) if isinstance(action.choices, dict) else ():
            if isinstance(child, ArgumentParser):
                yield from actions_of(child)
