"""The list of configs: what is in it, and its form with and without a terminal."""

import os
import pty
import subprocess
import sys

import pytest
from places import REPO
from program import mmadclr

from mmadclr.cli.list_configs import lines_of

NAMES = sorted(
    path.relative_to(REPO / 'configs').as_posix().removesuffix('.py')
    for path in (REPO / 'configs').rglob('*.py')
    if '_base_' not in path.parts
)


def test_without_a_terminal_every_config_is_a_line(tmp_path):
    lines = mmadclr('list-configs', cwd=tmp_path, COLUMNS='40').stdout.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    text = (REPO / 'configs/adclr/vits16_folder.py').read_text().splitlines()[0].removeprefix('"""')
    assert [line.split(maxsplit=1)[1] for line in lines if line.startswith('adclr/vits16_folder ')] == [text]
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines), 'a config without docstring'


@pytest.mark.parametrize('words', [['SelfPatch'], ['adclr', 'ABLATION'], ['photographs']])
def test_words_choose(words):
    lines = mmadclr('list-configs', *words).stdout.splitlines()
    everything = mmadclr('list-configs').stdout.splitlines()
    expected = [line.split()[0] for line in everything if all(word.lower() in line.lower() for word in words)]
    assert 0 < len(lines) < len(everything)
    assert [line.split()[0] for line in lines] == expected


def test_words_that_choose_nothing_are_one_line():
    done = mmadclr('list-configs', 'adclr', 'zzz')
    assert (done.returncode, done.stdout) == (2, '')
    (line,) = done.stderr.splitlines()
    assert "has 'adclr' and 'zzz' in its name or description" in line


@pytest.mark.parametrize('width', [40, 80, 120])
def test_on_a_terminal_lines_keep_its_width_and_all_words(width):
    texts = {'a/b': 'one two three ' * 9, 'a/longer_name': 'four'}
    lines = '\n'.join(lines_of(texts, width)).splitlines()
    assert max(map(len, lines)) <= width
    words = ' '.join(lines).split()
    assert words == [word for name, text in texts.items() for word in (name, *text.split())]
    assert {line.split()[0] for line in lines if not line.startswith(' ')} == set(texts)


def test_on_a_terminal_of_forty_columns():
    parent, child = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ('COLUMNS', 'LINES')}
    subprocess.run(['stty', 'cols', '40'], stdin=child, check=True)
    command = [sys.executable, '-m', 'mmadclr', 'list-configs', 'vits16_folder']
    done = subprocess.run(command, cwd=REPO, env=environment, stdin=child, stdout=child, stderr=subprocess.PIPE, check=False)
    os.close(child)
    assert done.returncode == 0, done.stderr
    lines = os.read(parent, 10_000).decode().splitlines()
    os.close(parent)
    assert lines[0] == 'adclr/vits16_folder'
    assert len(lines) > 2
    assert max(map(len, lines)) <= 40
