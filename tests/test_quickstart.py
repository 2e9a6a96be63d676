"""The quickstart as a reader follows it: its commands and its Python, one after the other, on small images."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from documents import blocks, commands, words
from PIL import Image
from places import REPO

# What makes a run take seconds; the page's own words stay as they are.
SMALL = {
    'train': [
        'model.backbone.arch=vit_tiny_patch16_224',
        'model.head.out_dim=32',
        'model.head.hidden_dim=32',
        'train_cfg.max_epochs=2',
        'train_dataloader.batch_size=4',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'default_hooks.schedule.warmup_epochs=1',
        'default_hooks.schedule.teacher_temp_warmup_epochs=1',
        'default_hooks.schedule.freeze_last_layer_epochs=1',
    ],
    'demo': [
        'train_cfg.max_epochs=2',
        'train_dataloader.batch_size=4',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'train_dataloader.dataset.num_train=24',
        'train_dataloader.dataset.num_val=10',
        'val_dataloader.dataset.num_train=24',
        'val_dataloader.dataset.num_val=10',
        'default_hooks.schedule.warmup_epochs=1',
        'val_evaluator.dense.train.max_images=12',
        'val_evaluator.dense.val.max_images=6',
    ],
}
MORE = {'adapt': ['--size', '32', '--workers', '0', '--budget', '2m']}  # the last budget counts
DONE = {
    'adapt': r'table +\S*adaptation\.md',
    'show': r'pictures',
    'report': r'report\.html',
    'train': r'saved +\S*work_dirs/vits16_folder/epoch_2\.pth',
    'knn': r'knn5_T0\.07_top1',
    'linear': r'linear_top1',
    'export': r'my_vit: weights, configuration and README\.md',
    'demo': r'(?s)raw pixels.*ADCLR teacher',
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """``my_images``, class folders ``images/train`` and ``images/val``, and ``photo.jpg``."""
    folder, rng = tmp_path_factory.mktemp('quickstart'), np.random.default_rng(0)
    names = [f'my_images/{n}' for n in range(12)] + [f'other_images/{n}' for n in range(24)]
    names += [f'images/{split}/{name}/{n}' for split in ('train', 'val') for name in 'ab' for n in range(10)]
    for number, name in enumerate([*names, 'photo']):
        path = folder / f'{name}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(60 * (number % 2), 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize((120, 100), Image.Resampling.BICUBIC).save(path)
    return folder


def run(folder, *arguments):
    environment = os.environ | {'PYTHONPATH': str(REPO), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize('document', ['docs/quickstart.md', 'README.md'])
def test_commands_and_python_run_as_written(document, folder):
    lines = [line for command in commands(document) for line in words(command) if line[0] == 'mmadclr']
    ran = set()
    for _, command, *arguments in lines:
        arguments = [re.sub(r'epoch_\d+', 'epoch_2', argument) for argument in arguments]
        settings = ['--cfg-options', *SMALL[command]] if command in SMALL else []
        if command == 'export' and (folder / 'my_vit').exists():
            (folder / 'my_vit').rename(folder / 'my_vit_of_the_page_before')
        printed = run(folder, '-m', 'mmadclr', command, *arguments, *settings, *MORE.get(command, []))
        assert re.search(DONE.get(command, 'adclr/vits16_folder'), printed), printed[-3000:]
        ran.add(command)
    assert ran >= {'train', 'knn', 'show', 'export'}
    (code,) = blocks(document, 'python')
    assert 'torch.Size([1, 192]) torch.Size([1, 36, 192])\n' in run(folder, '-c', code.replace('epoch_200', 'epoch_2'))
