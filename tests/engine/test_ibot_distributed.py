"""iBOT on two processes does what it does on one, although each sees another number of masked patches."""

import json

import pytest
import torch
from comparisons import assert_same_state
from mmengine.config import Config
from places import REPO
from programs import python_on_ranks

from mmadclr.engine import Runner

RECIPE = {
    'train_cfg.max_epochs': 2,
    'val_cfg': None,
    'val_dataloader': None,
    'val_evaluator': None,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'default_hooks.schedule.warmup_epochs': 1,
    'default_hooks.schedule.momentum': (0.9, 0.9),
    'default_hooks.logger.interval': 1,
    'default_hooks.checkpoint.max_keep_ckpts': -1,
    'default_hooks.checkpoint.interval': 1,
    'model.head.type': 'IBOTHead',
    'model.head.patch_out_dim': 40,
    'model.backbone.arch': dict(embed_dim=24, depth=2, num_heads=3, patch_size=8),
    'optim_wrapper.max_norm': 0.1,
}
RUNS = {
    'single': {'train_dataloader.batch_size': 4},
    'ddp': {'train_dataloader.batch_size': 2},
    'ddp_accumulated': {'train_dataloader.batch_size': 1, 'optim_wrapper.accumulative_counts': 2},
    'fsdp': {'train_dataloader.batch_size': 2, 'sharding': 'fsdp'},
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Work dirs of the runs; the two-process ones in one launch."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp('ibot')
    paths = []
    for name, overrides in RUNS.items():
        cfg = Config.fromfile(REPO / 'configs/demo/ibot_vittiny_shapes.py')
        cfg.merge_from_dict(RECIPE | overrides)
        cfg.train_dataloader.dataset.update(data_root=str(root / 'shapes'), num_train=12, num_val=10, image_size=32)
        cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
        cfg.work_dir, cfg.experiment_name = str(root / name), f'{root.name}_{name}'
        paths.append(root / f'{name}.py')
        cfg.dump(paths[-1])
    Runner.from_cfg(Config.fromfile(paths[0])).train()
    python_on_ranks(2, 'tests/engine/distributed_runs.py', *paths[1:])
    return root


def state_of(folder, name, epoch):
    return torch.load(folder / name / f'epoch_{epoch}.pth', weights_only=False)['state_dict']


def logged(folder, name, key):
    (path,) = (folder / name).glob('*/vis_data/scalars.json')
    return [line[key] for line in map(json.loads, open(path)) if key in line]


@pytest.mark.long
@pytest.mark.parametrize('name', ['ddp', 'ddp_accumulated', 'fsdp'])
def test_two_processes_equal_one(folder, name):
    for epoch in (1, 2):
        assert_same_state(state_of(folder, 'single', epoch), state_of(folder, name, epoch), atol=1e-5)
    if 'accumulated' not in name:
        for key in ('loss_cls', 'loss_patch'):
            assert logged(folder, name, key) == pytest.approx(logged(folder, 'single', key), abs=1e-5), key


def test_the_recipe_moves_what_is_compared(folder):
    states = [state_of(folder, 'single', epoch) for epoch in (1, 2)]
    for name in ('student.backbone.mask_token', 'loss_patch.center', 'teacher.backbone.cls_token'):
        assert not torch.equal(states[0][name], states[1][name]), name
    assert all(value > 0 for value in logged(folder, 'single', 'loss_patch'))
