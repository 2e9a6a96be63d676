"""Scripts for shells: what bash then offers."""

import subprocess
import sys

import pytest
from program import mmadclr

pytest.importorskip('shtab')

OFFER = """
source {script}
function_of_mmadclr=$(complete -p mmadclr | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=({words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
$function_of_mmadclr mmadclr "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope='module')
def script(tmp_path_factory):
    file = tmp_path_factory.mktemp('completion') / 'mmadclr'
    done = mmadclr('completion', 'bash', PYTHONPATH=':'.join(filter(None, sys.path)))
    assert done.returncode == 0, done.stderr
    file.write_text(done.stdout)
    return file


@pytest.mark.parametrize(
    ('words', 'offered'),
    [
        ('mmadclr li', {'linear', 'list-configs'}),
        ('mmadclr train adclr/vits16_f', {'adclr/vits16_folder'}),
        ('mmadclr train my', {'my_images'}),
        ('mmadclr train adclr/vits16_folder --am', {'--amp'}),
        ('mmadclr train adclr/vits16_folder --amp b', {'bf16'}),
        ('mmadclr train adclr/vits16_folder --data m', {'my_images'}),
        ('mmadclr export a.pth out --format t', {'timm', 'torchscript'}),
    ],
)
def test_bash_offers(script, words, offered, tmp_path):
    (tmp_path / 'my_images').mkdir()
    command = ['bash', '-c', OFFER.format(script=script, words=words)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == offered


@pytest.mark.parametrize('shell', ['zsh', 'tcsh'])
def test_other_shells_get_a_script(shell):
    done = mmadclr('completion', shell, PYTHONPATH=':'.join(filter(None, sys.path)))
    assert (done.returncode, done.stderr) == (0, '')
    assert 'mmadclr' in done.stdout
    assert 'print-config' in done.stdout


def test_without_the_package_the_command_that_installs_it_is_said(tmp_path):
    (tmp_path / 'shtab.py').write_text('raise ModuleNotFoundError("No module named \'shtab\'", name="shtab")\n')
    done = mmadclr('completion', 'bash', PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "completion needs shtab: pip install 'mmadclr[completion]'" in done.stderr
