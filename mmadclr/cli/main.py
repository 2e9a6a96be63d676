"""The program ``mmadclr``: finds the command, parses its arguments and runs it.

Arguments are parsed and config names are checked before any slow import.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from mmadclr.cli.parsers import COMMANDS, LIGHT, Parser, build_parser, command_parser, module_of
from mmadclr.cli.processes import start_processes, started_by_torchrun
from mmadclr.packages import check_families
from mmadclr.shipped import ambiguity, find_config, is_shipped, nearest, shipped_configs
from mmadclr.urls import is_public_name

# Threads of torch on a CPU that wait for each other give their core away, where they would spin: beside loader workers and
# other programs, spinning takes the time of those that are waited for. Read when torch is imported, so set before.
PASSIVE = ('OMP_WAIT_POLICY', 'PASSIVE')
INTERRUPTED = 130  # the status of a program that Ctrl-C ended, as in shells


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command in the command line."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ['help']:
        arguments = [*arguments[1:2], '--help']
    if not arguments or arguments[0].startswith('-'):
        build_parser().parse_args(arguments or ['--help'])
        return
    command, *rest = arguments
    if command not in COMMANDS:
        names = nearest(command, list(COMMANDS))
        hint = f'; did you mean {" or ".join(names)}?' if names else ''
        Parser(prog='mmadclr').error(f'unknown command {command!r}{hint}')
    find_own_modules()
    run_command(command, rest, f'mmadclr {command}')


def find_own_modules() -> None:
    """Appends the current folder to the module path, so that configs can import custom modules from it."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def run_tool(command: str) -> None:
    """Runs a command as a script of ``tools/``, with the arguments of the script."""
    run_command(command, sys.argv[1:], os.path.basename(sys.argv[0]))


def run_command(command: str, arguments: Sequence[str], prog: str) -> None:
    """Reads the arguments of a command and runs it."""
    os.environ.setdefault(*PASSIVE)
    try:
        parser = command_parser(command, prog)
        args = parser.parse_args(arguments)
        if command in LIGHT:
            run_light(command, args, parser)
        else:
            run(command, args, arguments)
    except KeyboardInterrupt:
        print('error: interrupted (Ctrl-C)', file=sys.stderr)
        sys.exit(INTERRUPTED)


def run_light(command: str, args: Namespace, parser: Parser) -> None:
    """Runs a command that only prints; its reader may close the pipe early, as ``head`` does."""
    try:
        module_of(command).run(args, parser)
        print(end='', flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # discards what is flushed at exit


def run(command: str, args: Namespace, arguments: Sequence[str]) -> None:
    """Runs a command that trains, evaluates or writes files, in one or several processes."""
    try:
        check_config_names(args)
        note(check_families())
        start_processes(command, args, arguments)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')
    from mmadclr.cli.launch import report_bad_input  # imports torch and mmengine

    report_bad_input(lambda: module_of(command).run(args))()


def check_config_names(args: Namespace) -> None:
    """Checks that configs exist, before slow imports, and notes which file is used if a name is ambiguous.

    Raises:
        FileNotFoundError: See :func:`mmadclr.shipped.find_config`.
    """
    if 'config' in args:
        find_config(args.config)
    elif 'checkpoint' in args and (
        'read' in args or 'suite' in args
    ):  # evaluations of frozen features accept configs as checkpoints
        check_checkpoint_name(args.checkpoint)
    for text in getattr(args, 'configs', ()):
        if not Path(text).is_dir():
            find_config(text)
    named = [getattr(args, 'config', None), getattr(args, 'checkpoint', None), *getattr(args, 'configs', ())]
    for text in filter(None, named):
        note(ambiguity(text))


def check_checkpoint_name(text: str) -> None:
    """Raises FileNotFoundError if a name can only be a misspelled config name."""
    is_path = Path(text).exists() or Path(text).suffix or is_public_name(text)
    near = [] if is_path else nearest(text, list(shipped_configs()))
    if near and not is_shipped(text):
        raise FileNotFoundError(f'checkpoint {text} does not exist; did you mean the config {" or ".join(near)}?')


def note(text: str | None) -> None:
    """Prints a note, if there is one; processes that torchrun started do not repeat it."""
    if text and not started_by_torchrun():
        print(f'note: {text}', file=sys.stderr)
