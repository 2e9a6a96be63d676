"""How several processes are started: what torchrun is called with, and what is refused."""

import json
import os
import signal
import subprocess
import sys

import pytest
from places import REPO
from program import mmadclr, mmadclr_with_libraries

from mmadclr.cli.processes import PASSED_ON, check_gpus, torchrun_command, torchrun_environment


def test_torchrun_is_called_as_by_the_script(tmp_path):
    """``tools/dist_train.sh`` with a stand-in for Python that prints how it is called."""
    fake = tmp_path / 'python'
    fake.write_text(f'#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]))\n')
    fake.chmod(0o755)
    for nodes in (
        {},
        dict(NNODES='4', NODE_RANK='2', MASTER_ADDR='node0'),
        dict(NNODES='2', NODE_RANK='0', MASTER_ADDR='a', MASTER_PORT='7'),
    ):
        environment = os.environ | nodes | {'PYTHON': str(fake)}
        script = ['tools/dist_train.sh', 'a.py', '8', '--amp', 'bf16']
        words, variables = json.loads(
            subprocess.run(script, cwd=REPO, env=environment, capture_output=True, check=True).stdout
        )
        ours = torchrun_command(8, 'train', ['a.py', '--amp', 'bf16'], nodes)
        assert ours[0] == sys.executable
        place = words[: words.index('tools/train.py')]
        assert ours[1 : 1 + len(place)] == place
        assert ours[1 + len(place) :] == ['-m', 'mmadclr', 'train', '--launcher', 'pytorch', 'a.py', '--amp', 'bf16']
        assert variables['PET_SIGNALS_TO_HANDLE'] == PASSED_ON


def test_names_of_signals_exist():
    assert all(hasattr(signal, name) for name in PASSED_ON.split(','))


def test_processes_find_the_package_of_a_clone_and_keep_what_is_set():
    environment = torchrun_environment({'PYTHONPATH': '/mine', 'PET_SIGNALS_TO_HANDLE': 'SIGTERM', 'A': 'b'})
    assert environment['PYTHONPATH'] == f'{REPO}{os.pathsep}/mine'
    assert (environment['PET_SIGNALS_TO_HANDLE'], environment['A']) == ('SIGTERM', 'b')
    assert torchrun_environment({})['PYTHONPATH'] == str(REPO)


@pytest.mark.parametrize(
    ('options', 'environment', 'message'),
    [
        (['--gpus', '2', '--launcher', 'slurm'], {}, '--gpus 2 starts the processes itself; if torchrun or a batch '),
        (['--gpus', '2'], {'TORCHELASTIC_RUN_ID': 'x'}, '--gpus 2 starts the processes itself; if torchrun or a batch '),
        (['--gpus', '1'], {'NNODES': '2', 'NODE_RANK': '1'}, 'NNODES=2: set MASTER_ADDR as well'),
        (['--gpus', '1'], {'NNODES': '2'}, 'NNODES=2: set NODE_RANK and MASTER_ADDR as well'),
    ],
)
def test_what_cannot_be_started_is_one_line(options, environment, message):
    done = mmadclr('train', 'adclr/vits16_folder', *options, **environment)
    assert (done.returncode, done.stdout) == (1, '')
    (line,) = done.stderr.splitlines()
    assert line.startswith(f'error: {message}')


def test_mistakes_in_the_config_are_said_once(tmp_path):
    for options, message in (
        (
            ['--cfg-options', 'model.backbone.dept=3'],
            'model.backbone.dept: QueryViT has no such argument',
        ),
        (['--data', 'nowhere'], 'train_dataloader.dataset.data_root: folder nowhere does not exist'),
    ):
        run = ['train', 'adclr/vits16_folder', '--gpus', '2', '--work-dir', tmp_path / 'run', *options]
        done = mmadclr_with_libraries(*run)
        assert (done.returncode, done.stdout) == (1, '')
        assert done.stderr.count('error: ') == 1
        assert message in done.stderr
        assert 'torchrun' not in done.stderr
        assert 'Traceback' not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_none_are_refused():
    done = mmadclr('train', 'adclr/vits16_folder', '--gpus', '0')
    assert done.stderr.startswith("mmadclr train: error: argument --gpus: '0' is not an integer of 1 or more")


@pytest.mark.parametrize(('found', 'refused'), [(0, False), (1, True), (7, True), (8, False), (9, False)])
def test_fewer_gpus_than_asked_for_are_refused(found, refused, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: found > 0)
    monkeypatch.setattr('torch.cuda.device_count', lambda: found)
    if not refused:
        return check_gpus(8)
    with pytest.raises(ValueError, match=f'^--gpus 8: only {found} GPUs? available on this machine$'):
        check_gpus(8)
    return None


@pytest.mark.slow
def test_two_processes_evaluate_as_one(image_folder, tmp_path):
    """The whole way: the program becomes torchrun, in a folder with a file that is called as a module of Python."""
    images = image_folder(12, name='photos')
    (tmp_path / 'random.py').write_text('raise SystemExit("the module random of this folder")\n')
    results = {}
    for gpus in ('1', '2'):
        out = tmp_path / f'{gpus}.json'
        data = ['--train', images, '--val', images, '--k', '3', '--workers', '0', '--gpus', gpus, '--out', out]
        command = [sys.executable, '-P', '-m', 'mmadclr', 'knn', 'adclr/vitmini8_small', *map(str, data)]
        environment = os.environ | {'PYTHONPATH': str(REPO), 'CUDA_VISIBLE_DEVICES': ''}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        results[gpus] = json.loads(out.read_text())
    assert results['1'] == results['2']
    assert len([name for name in results['1'] if name.endswith('top1')]) == 1
