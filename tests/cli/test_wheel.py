"""The wheel, built from the source distribution and used in an empty folder without the clone."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from places import REPO

BUILD = 'import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])'
NEWEST = 77  # setuptools that know the license of the metadata
SMALL = [
    *('model.backbone.arch=vit_tiny_patch16_224', 'train_cfg.max_epochs=1', 'train_dataloader.batch_size=4'),
    *('train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False'),
    *('default_hooks.schedule.warmup_epochs=0', 'default_hooks.checkpoint.interval=1'),
]
SHAPES = [
    *(
        'train_dataloader.dataset.num_train=16',
        'train_dataloader.dataset.num_val=10',
        'train_dataloader.dataset.image_size=32',
    ),
    *('val_dataloader.dataset.num_train=16', 'val_dataloader.dataset.num_val=10', 'val_dataloader.dataset.image_size=32'),
    *('train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'val_evaluator.knn.k=3', 'val_evaluator.dense.k=3'),
    *('train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False', 'val_dataloader.num_workers=0'),
    *('train_dataloader.batch_size=8', 'default_hooks.schedule.warmup_epochs=0', 'default_hooks.logger.interval=1'),
]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        int(importlib.metadata.version('setuptools').partition('.')[0]) < NEWEST,
        reason=f'needs setuptools {NEWEST} or newer',
    ),
]


def build(source: Path, what: str, out: Path) -> Path:
    """What pip and build call in a folder with a ``pyproject.toml``."""
    out.mkdir()
    done = subprocess.run(
        [sys.executable, '-c', BUILD, what, str(out)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = out.iterdir()
    return file


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    """The wheel of the source distribution of a copy of the clone."""
    folder = tmp_path_factory.mktemp('wheel')
    for name in ('mmadclr', 'configs', 'requirements', 'tools', 'tests'):  # and no folder of builds that were made before
        shutil.copytree(REPO / name, folder / 'clone' / name, ignore=shutil.ignore_patterns('__pycache__'))
    for path in filter(Path.is_file, REPO.iterdir()):
        shutil.copy(path, folder / 'clone')
    sdist = build(folder / 'clone', 'build_sdist', folder / 'sdist')
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter='data')
    return build(folder / sdist.name.removesuffix('.tar.gz'), 'build_wheel', folder / 'dist')


@pytest.fixture(scope='module')
def site(wheel) -> Path:
    """The unpacked wheel."""
    folder = wheel.parents[1] / 'site'
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope='module')
def user(site, tmp_path_factory):
    """``run(*arguments)`` of the program of the wheel, in a folder with two folders of JPEG files; and that folder."""
    folder = tmp_path_factory.mktemp('user')
    rng = np.random.default_rng(0)
    for part, count in (('train', 12), ('val', 6)):
        for number in range(count):
            file = folder / 'photos' / part / f'class{number % 2}' / f'{number}.jpg'
            file.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
            coarse.resize((120, 90), Image.Resampling.BICUBIC).save(file)

    def run(*arguments, program=('-m', 'mmadclr')):
        environment = os.environ | dict(PYTHONPATH=str(site), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', MPLBACKEND='Agg')
        command = [sys.executable, '-P', *program, *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    return run, folder


@pytest.fixture(scope='module')
def checkpoint(user) -> Path:
    run, folder = user
    run('train', 'adclr/vits16_folder', '--data', 'photos', '--cfg-options', *SMALL)
    return folder / 'work_dirs/vits16_folder/epoch_1.pth'


def test_the_wheel_holds_what_it_should(site):
    names = {path.relative_to(site).as_posix() for path in site.rglob('*') if path.is_file()}
    configs = {
        f'mmadclr/.mim/{path.relative_to(REPO).as_posix()}'
        for path in (REPO / 'configs').rglob('*')
        if path.suffix in ('.py', '.yml', '.md')
    }
    code = {path.relative_to(REPO).as_posix() for path in (REPO / 'mmadclr').rglob('*.py')}
    info = next(name for name in names if name.endswith('.dist-info/METADATA')).removesuffix('METADATA')
    others = {
        'mmadclr/py.typed',
        'mmadclr/show/page.html',
        *(path.relative_to(REPO).as_posix() for path in (REPO / 'mmadclr/report/static').iterdir()),
        'mmadclr/.mim/model-index.yml',
        f'{info}entry_points.txt',
        f'{info}licenses/LICENSE',
    }
    assert names - {f'{info}{name}' for name in ('METADATA', 'RECORD', 'WHEEL', 'top_level.txt')} == configs | code | others
    assert (site / f'{info}entry_points.txt').read_text() == '[console_scripts]\nmmadclr = mmadclr.cli.main:main\n'


def test_what_is_required_is_what_requirements_say(wheel, site):
    (info,) = site.glob('*.dist-info')
    found = importlib.metadata.Distribution.at(info)
    runtime = [line.partition('#')[0].strip() for line in (REPO / 'requirements/runtime.txt').read_text().splitlines()]
    assert [need for need in found.requires if 'extra ==' not in need] == [line for line in runtime if line]
    assert set(found.metadata.get_all('Provides-Extra')) >= {'dense', 'export', 'remote', 'tiff', 'completion', 'tests'}
    assert found.version in wheel.name


def test_the_package_is_that_of_the_wheel(user, site):
    run, _ = user
    assert run('import mmadclr; print(mmadclr.__file__)', program=['-c']).strip() == str(site / 'mmadclr/__init__.py')


def test_configs_are_listed(user):
    lines = user[0]('list-configs', 'adclr', 'folder').splitlines()
    assert [line.split()[0] for line in lines] == ['adapt/adclr', 'adclr/vits16_folder']


def test_a_folder_of_photographs_trains_and_its_checkpoint_is_used(user, checkpoint):
    run, folder = user
    assert checkpoint.is_file()
    data = ['--train', 'photos/train', '--val', 'photos/val', '--workers', 0]
    found = json.loads(run('knn', checkpoint, *data, '--k', 3, '--out', 'knn.json').partition('{')[2].join(['{', '']))
    assert 0 <= found['knn3_T0.07_top1'] <= 100
    assert found['train_images'] == 12
    run('export', checkpoint, 'my_vit', '--format', 'timm')
    assert {path.name for path in (folder / 'my_vit').iterdir()} == {'config.json', 'model.safetensors', 'README.md'}


def test_a_config_is_based_on_one_of_the_wheel(user, site):
    run, folder = user
    (folder / 'my.py').write_text("_base_ = 'mmadclr::adclr/vits16_folder.py'\nmodel = dict(query_weight=0.25)\n")
    text = run('print-config', 'my.py', '--key', 'model')
    assert f'# {folder}/my.py:2' in text
    assert '# mmadclr/.mim/configs/adclr/vits16_small.py:' in text
    run('train', 'my.py', '--data', 'photos', '--work-dir', 'mine', '--cfg-options', *SMALL)
    assert (folder / 'mine/epoch_1.pth').is_file()


def test_mmengine_and_its_hub_find_the_configs(user):
    code = (
        'import mmadclr.registry; from mmengine.hub import get_config\n'
        "for name in ('adclr/vits16_in1k', 'adclr/vits16_folder'):\n"
        "    print(get_config(f'mmadclr::{name}.py').train_cfg.max_epochs)"
    )
    assert user[0](code, program=['-c']).split() == ['800', '200']


def test_the_demo_and_a_comparison_run(user):
    run, folder = user
    table = run('demo', '--parts', 'pretraining', '--cfg-options', *SHAPES)
    assert 'ADCLR teacher' in table
    assert json.loads((folder / 'work_dirs/demo/summary.json').read_text())['versions']['mmadclr']
    text = run(
        'compare', 'demo/dino_vittiny_shapes', '--parts', 'pretraining', 'knn', '--seeds', 0, '--cfg-options', *SHAPES
    )
    assert '| dino_vittiny_shapes |' in text
