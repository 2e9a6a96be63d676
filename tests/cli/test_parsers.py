"""Help of all commands: complete, with an example that the parser takes, at any width, and without slow imports."""

import shlex
import subprocess
import sys

import pytest
from places import REPO
from program import mmadclr

from mmadclr import __version__
from mmadclr.cli.parsers import COMMANDS, build_parser, command_parser, module_of, summary

SLOW = ('torch', 'torchvision', 'mmengine', 'timm', 'numpy', 'cv2', 'PIL', 'safetensors')


def test_making_the_parsers_imports_nothing_slow():
    code = 'import sys; from mmadclr.cli.main import build_parser; build_parser(); print(*sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], cwd=REPO, capture_output=True, text=True, check=True)
    loaded = {name.partition('.')[0] for name in done.stdout.split()}
    assert 'mmadclr' in loaded
    assert loaded & set(SLOW) == set()


@pytest.mark.parametrize('command', COMMANDS)
@pytest.mark.parametrize('columns', ['40', '200'])
def test_help_of_a_command(command, columns):
    done = mmadclr(command, '--help', COLUMNS=columns)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith(f'usage: mmadclr {command}')
    assert f'mmadclr {command} {module_of(command).EXAMPLE}' in done.stdout
    text = done.stdout[: done.stdout.index('example:')].splitlines()[1:]
    filled = [line for line in text if not line.startswith('  -')]  # an option and its values stay in a line
    assert max(map(len, filled)) <= int(columns)


@pytest.mark.parametrize('command', COMMANDS)
def test_the_example_is_understood(command):
    words = shlex.split(module_of(command).EXAMPLE.partition(' > ')[0])
    command_parser(command, 'mmadclr').parse_args(words)


def test_help_of_the_program_names_every_command_in_a_line():
    for arguments in ((), ('--help',), ('-h',), ('help',)):
        done = mmadclr(*arguments, COLUMNS='100')
        assert done.returncode == 0
        for command in COMMANDS:
            assert f' {command}' in done.stdout
            assert f' {summary(module_of(command))}\n' in done.stdout
            assert len(summary(module_of(command))) < 75
    assert mmadclr('help', 'pack').stdout == mmadclr('pack', '--help').stdout
    assert mmadclr('--version').stdout == f'mmadclr {__version__}\n'


@pytest.mark.parametrize('command', COMMANDS)
def test_every_option_says_what_it_is(command):
    for action in command_parser(command, 'mmadclr')._actions:
        assert action.help or action.choices or action.dest in ('seeds', 'num_classes', 'name'), action.dest


def test_mistakes_are_one_line_and_say_where_to_read_on():
    for arguments, message in (
        (['train'], 'mmadclr train: error: the following arguments are required: CONFIG (mmadclr train --help)'),
        (
            ['knn', 'a.pth', '--train', 'x', '--val', 'y', '--k', '0'],
            "mmadclr knn: error: argument --k: '0' is not an integer of 1 or more (mmadclr knn --help)",
        ),
        (['trian', 'a.py'], "mmadclr: error: unknown command 'trian'; did you mean train? (mmadclr --help)"),
        (['evaluate'], "mmadclr: error: unknown command 'evaluate' (mmadclr --help)"),
        (['check-dta'], "mmadclr: error: unknown command 'check-dta'; did you mean check-data? (mmadclr --help)"),
    ):
        done = mmadclr(*arguments)
        assert (done.returncode, done.stdout, done.stderr) == (2, '', f'{message}\n')


def test_all_parsers_together_have_the_commands():
    args = build_parser().parse_args(['export', 'a.pth', 'out', '--format', 'timm'])
    assert (args.command, args.checkpoint, args.folder, args.format) == ('export', 'a.pth', 'out', 'timm')
