"""Configs by name and by path, and what is said before anything is imported that takes time."""

import os
import shutil
import subprocess
import sys
import time

import pytest
from places import REPO
from program import mmadclr, mmadclr_with_libraries
from programs import python

from mmadclr.cli import main as main_module

KEY = ('--key', 'train_cfg.max_epochs')


@pytest.mark.parametrize('name', ['adclr/vits16_folder.py', 'demo/ablations/lambda_0.1'])
def test_a_shipped_config_is_known_by_its_name(name):
    named, by_path = (
        python('-m', 'mmadclr', 'print-config', config, *KEY).stdout
        for config in (name, f'configs/{name.removesuffix(".py")}.py')
    )
    assert named == by_path
    assert 'max_epochs=' in named


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('adclr/vits16_foldr', 'does not exist; did you mean adclr/vits16_folder or '),
        ('vits16_folder', 'does not exist; did you mean adclr/vits16_folder'),
        ('configs/adclr/vits16_folder.py', 'does not exist; did you mean adclr/vits16_folder'),
        ('./my.py', 'does not exist; '),
        ('qqqqq', 'does not exist; mmadclr list-configs lists all names'),
        ('_base_/default_runtime', 'does not exist; '),
        ('.', 'is a folder, not a config; '),
    ],
)
@pytest.mark.parametrize('command', [['train'], ['test'], ['check-data'], ['print-config'], ['demo']])
def test_unknown_configs_are_one_line_with_the_nearest(name, message, command, tmp_path):
    done = mmadclr(*command, name, *(['a.pth'] if command == ['test'] else []), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, '')
    (line,) = done.stderr.splitlines()
    assert line.startswith(f'error: config {name} {message}')


def test_unknown_configs_are_told_before_slow_imports(tmp_path):
    code = (
        'import sys; from mmadclr.cli.main import main\n'
        'try: main(["train", "nothing"])\n'
        'except SystemExit: print("torch" in sys.modules)'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == 'False\n'


def test_a_config_that_stands_for_a_checkpoint_is_looked_up_as_well(tmp_path):
    data = ['--train', tmp_path, '--val', tmp_path]
    done = mmadclr('knn', 'adclr/vits16_foldr', *data)
    assert done.stderr.startswith(
        'error: checkpoint adclr/vits16_foldr does not exist; did you mean the config adclr/vits16_folder'
    )
    done = mmadclr('compare', 'demo/dino_vittiny_shapes', 'demo/adclr_vittiny_shape')
    assert done.stderr.startswith(
        'error: config demo/adclr_vittiny_shape does not exist; did you mean demo/adclr_vittiny_shapes'
    )


@pytest.fixture
def both(tmp_path):
    """A folder with a file that is called as a shipped config."""
    (tmp_path / 'adclr').mkdir()
    (tmp_path / 'adclr/vits16_folder.py').write_text('train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=77)\n')
    return tmp_path


def test_a_path_wins_over_a_name_and_that_is_said(both):
    done = mmadclr_with_libraries('print-config', 'adclr/vits16_folder.py', *KEY, cwd=both)
    assert 'max_epochs=77' in done.stdout
    assert done.stderr == (
        'note: adclr/vits16_folder.py: using the file in this folder; for the config of mmadclr, omit .py: '
        'adclr/vits16_folder\n'
    )


def test_a_name_that_is_no_path_is_the_shipped_config_and_that_is_said(both):
    done = mmadclr_with_libraries('print-config', 'adclr/vits16_folder', *KEY, cwd=both)
    assert 'max_epochs=200' in done.stdout
    assert done.stderr == (
        'note: adclr/vits16_folder: using the config of mmadclr; for the file in this folder, add .py: '
        'adclr/vits16_folder.py\n'
    )


def test_within_the_folder_of_configs_both_are_one(tmp_path):
    done = mmadclr_with_libraries('print-config', 'adclr/vits16_folder.py', *KEY, cwd=REPO / 'configs')
    assert (done.returncode, done.stderr) == (0, '')


@pytest.mark.long
def test_modules_of_the_current_folder_are_found_but_stand_for_no_others(tmp_path):
    (tmp_path / 'my_module.py').write_text('print("imported")\n')
    (tmp_path / 'random.py').write_text('raise SystemExit("the module random of this folder")\n')
    (tmp_path / 'my.py').write_text(
        "_base_ = 'mmadclr::demo/dino_vittiny_shapes.py'\ncustom_imports = dict(imports=['my_module'])\n"
    )
    code = f'import sys; sys.path.insert(0, {str(REPO)!r}); from mmadclr.cli.main import main; main(sys.argv[1:])'
    command = [sys.executable, '-P', '-c', code, 'print-config', 'my.py', *KEY]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('imported\n')
    (tmp_path / 'my_module.py').unlink()
    done = mmadclr_with_libraries('print-config', 'my.py', *KEY, cwd=tmp_path)
    assert done.stderr == (
        'error: config my.py needs my_module, which cannot be imported: no such module; the search path is the '
        'current folder and PYTHONPATH\n'
    )


def test_data_is_the_override_of_all_data_sets(tmp_path):
    done = python(
        '-m',
        'mmadclr',
        'print-config',
        'adclr/vits16_folder',
        '--data',
        tmp_path,
        '--key',
        'train_dataloader.dataset.data_root',
    )
    assert f"data_root='{tmp_path}',  # --cfg-options" in done.stdout
    twice = ['--data', 'a', '--cfg-options', 'data_root=b']
    done = python('-m', 'mmadclr', 'print-config', 'adclr/vits16_folder', *twice, check=False)
    assert done.stderr == 'error: --data a and data_root=b are the same setting: give one\n'


def test_a_work_dir_that_cannot_be_is_one_line(image_folder, tmp_path):
    (tmp_path / 'file').touch()
    settings = [
        'train_dataloader.batch_size=2',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
    ]
    for place, reason in (('file/run', 'Not a directory'), ('file', 'File exists')):
        work_dir = tmp_path / place
        data = ['--data', image_folder(4), '--work-dir', work_dir, '--cfg-options', *settings]
        done = python('-m', 'mmadclr', 'train', 'adclr/vits16_folder', *data, check=False)
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert last == f'error: {work_dir} cannot be made or written: {reason}; name another folder'
        assert 'Traceback' not in done.stderr


@pytest.mark.skipif(shutil.which('head') is None, reason='needs head')
def test_a_reader_that_has_read_enough_is_no_error():
    command = f'{sys.executable} -m mmadclr list-configs | head -1'
    done = subprocess.run(command, shell=True, cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.startswith('adapt/')
    assert done.stderr == ''


def test_a_closed_output_is_no_error():
    command = f'{sys.executable} -m mmadclr list-configs >&-'
    done = subprocess.run(command, shell=True, cwd=REPO, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, '')


def test_ctrl_c_while_libraries_are_imported_is_one_line(tmp_path):
    (tmp_path / 'torch.py').write_text('import time\nprint("importing", flush=True)\ntime.sleep(60)\n')
    command = [sys.executable, '-m', 'mmadclr', 'print-config', 'adclr/vits16_folder']
    process = subprocess.Popen(
        command,
        cwd=REPO,
        env={'PYTHONPATH': f'{tmp_path}', 'PATH': ''},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == 'importing\n'
    time.sleep(0.1)
    process.send_signal(2)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (130, 'error: interrupted (Ctrl-C)\n')


def test_threads_wait_without_spinning_before_torch_can_be_imported(monkeypatch):
    seen = []
    monkeypatch.delenv('OMP_WAIT_POLICY', raising=False)
    monkeypatch.setattr(main_module, 'command_parser', lambda *_: seen.append(os.environ['OMP_WAIT_POLICY']) or sys.exit(0))
    for before in (None, 'ACTIVE'):
        if before:
            monkeypatch.setenv('OMP_WAIT_POLICY', before)
        with pytest.raises(SystemExit):
            main_module.run_command('train', [], 'mmadclr train')
    assert seen == ['PASSIVE', 'ACTIVE']
