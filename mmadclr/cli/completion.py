"""Print a script that completes commands, options and names of configs in a shell."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

USAGE = 'SHELL'
SHELLS = ('bash', 'zsh', 'tcsh')
EXAMPLE = 'bash > ~/.local/share/bash-completion/completions/mmadclr'


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    parser.add_argument('shell', choices=SHELLS, metavar='SHELL', help=' or '.join(SHELLS))


def run(args: Namespace, parser: ArgumentParser) -> None:
    """Prints the script."""
    try:
        import shtab
    except ImportError:
        parser.error("completion needs shtab: pip install 'mmadclr[completion]'")
    print(completion_script(args.shell, shtab))


def completion_script(shell: str, shtab) -> str:
    return ''
