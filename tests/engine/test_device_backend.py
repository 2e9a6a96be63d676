"""Training with crops that the device cuts: every kind of method, from the command line, resumed, and by workers."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from comparisons import assert_same_state
from mmengine.config import Config
from places import REPO
from programs import python_on_ranks

from mmadclr.checkpoint import read_checkpoint
from mmadclr.config import findings
from mmadclr.config.check import ConfigError, check_config
from mmadclr.config.sense import check_sense
from mmadclr.datasets import conflicts
from mmadclr.engine import Runner

DEVICE = {'train_dataloader.dataset.transform.backend': 'device'}
METHODS = ['adclr', 'dino', 'ibot', 'selfpatch', 'pqcl', 'mocov3', 'adclr_mocov3']


def losses(runner):
    return runner.message_hub.get_scalar('train/loss').data[0]


@pytest.mark.long
@pytest.mark.parametrize('method', METHODS)
def test_methods_train_as_with_crops_from_the_worker(train, method):
    """The same draws and nearly the same pixels: nearly the same loss, at first, and after two epochs still about."""
    config = f'configs/demo/{method}_vittiny_shapes.py'
    short = {'train_cfg.val_interval': 2, 'default_hooks.checkpoint.interval': 2}
    device, fast = (train(short | some, work_dir=name, config=config) for name, some in (('device', DEVICE), ('fast', {})))
    assert device.iter == fast.iter == 6
    assert losses(device)[0] == pytest.approx(losses(fast)[0], rel=5e-3)
    assert losses(device) == pytest.approx(losses(fast), rel=0.1)


def test_going_on_equals_not_stopping_and_workers_change_nothing(train):
    config = 'configs/demo/pqcl_vittiny_shapes.py'
    settings = DEVICE | {'default_hooks.checkpoint.by_epoch': False, 'model.backbone.drop_path_rate': 0.3}
    whole = train(settings, work_dir='whole', config=config)
    resume = {'resume': True, 'load_from': f'{whole.work_dir}/iter_3.pth', 'train_dataloader.num_workers': 2}
    resumed = train(settings | resume, work_dir='resumed', config=config)
    assert_same_state(whole.model.state_dict(), resumed.model.state_dict())


@pytest.mark.slow
def test_two_processes_equal_one(small_config, tmp_path):
    paths = {}
    for name, batch in (('single', 4), ('ddp', 2)):
        more = {'train_dataloader.batch_size': batch, 'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None}
        cfg = small_config(DEVICE, work_dir=name, config='configs/demo/pqcl_vittiny_shapes.py')
        cfg.merge_from_dict(more | {'default_hooks.schedule.momentum': (0.9, 0.9)})
        paths[name] = tmp_path / f'{name}.py'
        cfg.dump(paths[name])
    Runner.from_cfg(Config.fromfile(paths['single'])).train()
    python_on_ranks(2, 'tests/engine/distributed_runs.py', paths['ddp'])
    single, other = (read_checkpoint(tmp_path / name / 'epoch_2.pth')['state_dict'] for name in ('single', 'ddp'))
    assert_same_state(single, other, atol=1e-5)


@pytest.mark.slow
def test_command_line(tmp_path):
    """``tools/train.py`` with workers, and the line that says what a CPU costs."""
    root = tmp_path / 'shapes'
    options = [
        *('train_cfg.max_epochs=1', 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None'),
        *('default_hooks.schedule.warmup_epochs=0', 'train_dataloader.batch_size=4', 'train_dataloader.num_workers=2'),
        *(f'train_dataloader.dataset.data_root={root}', 'train_dataloader.dataset.num_train=12'),
        *('train_dataloader.dataset.num_val=2', 'train_dataloader.dataset.transform.backend=device'),
        *('default_hooks.logger.interval=1', 'default_hooks.schedule.freeze_last_layer_epochs=0'),
    ]
    command = [sys.executable, 'tools/train.py', 'configs/demo/adclr_vittiny_shapes.py', '--work-dir', str(tmp_path / 'run')]
    environment = os.environ | dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PYTHONWARNINGS='ignore')
    done = subprocess.run(
        [*command, '--cfg-options', *options], cwd=REPO, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / 'run' / 'epoch_1.pth').exists()
    assert done.stdout.count("backend='device' without a GPU") == 1


@pytest.mark.dense
@pytest.mark.parametrize('method', ['mae_vittiny', 'mocov3_vittiny', 'simmim_swinmini'])
def test_methods_of_mmpretrain_train(method, tmp_path):
    cfg = Config.fromfile(REPO / f'configs/mmpretrain/{method}_shapes.py')
    cfg.train_dataloader.update(batch_size=4, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.update(data_root=str(tmp_path / 'shapes'), num_train=8, num_val=2, image_size=32)
    cfg.merge_from_dict(DEVICE | {'train_cfg.max_epochs': 1, 'default_hooks.checkpoint.interval': 1})
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    cfg.work_dir, cfg.experiment_name = str(tmp_path), tmp_path.name
    check_config(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 2
    assert np.isfinite(losses(runner)).all()


@pytest.fixture
def sensible(small_config, monkeypatch):
    """Checks the demo's config with changes and returns the lines of the log."""
    lines = []
    monkeypatch.setattr(findings, 'print_log', lambda text, *_: lines.append(text))

    def check(**changes):
        check_sense(small_config(DEVICE | changes))
        return lines

    return check


def test_a_cpu_is_warned_of(sensible, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert any("backend='device' without a GPU" in line for line in sensible())


def test_a_gpu_is_not(sensible, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert not any('device' in line for line in sensible())


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'model.data_preprocessor': dict(type='mmengine.ImgDataPreprocessor')},
            r"transform\.backend='device' sends full images, but .*ImgDataPreprocessor does not cut crops",
        ),
        (
            {'val_dataloader.dataset.transform': dict(type='MultiCrop', backend='device')},
            r"val_dataloader\.dataset\.transform: backend='device' is only for training",
        ),
    ],
)
def test_settings_that_exclude_each_other(sensible, changes, message):
    with pytest.raises(ConfigError, match=message):
        sensible(**changes)


@pytest.mark.parametrize('kind', ['QueryBoxPreprocessor', 'mmadclr.MMPretrainPreprocessor', 'ViewPreprocessor'])
def test_all_our_preprocessors_cut(sensible, kind):
    sensible(**{'model.data_preprocessor': dict(type=kind)})


def test_decoding_on_the_device_needs_its_library(sensible, monkeypatch):
    decode = {'train_dataloader.dataset.transform.decode': 'device'}
    monkeypatch.setattr(conflicts, 'find_spec', lambda name: None)
    with pytest.raises(ConfigError, match=r"decode='device' requires TorchCodec: pip install 'torchcodec>=0\.16'"):
        sensible(**decode)
    monkeypatch.setattr(conflicts, 'find_spec', lambda name: object())
    sensible(**decode)
