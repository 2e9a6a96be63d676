"""Two processes, with whole and with sharded parameters, do what one process does: losses, weights, centers, files."""

import json
from pathlib import Path

import pytest
import torch
from comparisons import assert_same_state
from mmengine.config import Config
from places import REPO
from programs import python_on_ranks

from mmadclr.engine import Runner

# Clipping that bites, a last layer that is released after the first of two epochs, a second head, no drop path.
BASE = {
    'train_cfg.max_epochs': 2,
    'train_cfg.val_interval': 2,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'default_hooks.schedule.warmup_epochs': 1,
    'default_hooks.schedule.freeze_last_layer_epochs': 1,
    'default_hooks.schedule.momentum': (0.9, 0.9),
    'default_hooks.logger.interval': 1,
    'default_hooks.checkpoint.interval': 1,
    'default_hooks.checkpoint.max_keep_ckpts': -1,
    'model.backbone.arch': dict(embed_dim=24, depth=2, num_heads=3, patch_size=8),
    'model.shared_head': False,
    'optim_wrapper.max_norm': 0.1,
    'val_evaluator.knn.k': 5,
}
WHOLE = {'train_dataloader.batch_size': 4}
HALF, QUARTER = (
    {'train_dataloader.batch_size': 2},
    {'train_dataloader.batch_size': 1, 'optim_wrapper.accumulative_counts': 2},
)
PLAIN = {'model.loss_cls.logits_mib': None, 'model.loss_query.logits_mib': None}
TWO_PROCESSES = {
    'ddp': HALF,
    'ddp_accumulated': QUARTER,
    'fsdp': HALF | {'sharding': 'fsdp'},
    'fsdp_accumulated': QUARTER | {'sharding': 'fsdp'},
    'fsdp_plain_loss': HALF | PLAIN | {'sharding': 'fsdp'},
    'fsdp_grad_op': HALF | {'sharding': 'fsdp-grad-op', 'model.backbone.grad_checkpointing': True},
    'ddp_compiled': HALF | {'compile': dict(backend='aot_eager')},
    'fsdp_compiled': HALF
    | {'sharding': 'fsdp', 'compile': dict(backend='aot_eager'), 'model.backbone.grad_checkpointing': 'selective'},
}


class Runs:
    """Runs of one recipe below a folder, by name."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def config(self, name: str, overrides: dict, resume_from: str | None = None, load_from: str | None = None) -> Path:
        cfg = Config.fromfile(REPO / 'configs/demo/adclr_vittiny_shapes.py')
        cfg.merge_from_dict(BASE | overrides)
        data = dict(data_root=str(self.root / 'shapes'), num_train=12, num_val=10, image_size=32)
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            loader.dataset.update(data)
        cfg.val_evaluator.dense = None
        cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
        cfg.work_dir, cfg.experiment_name = str(self.root / name), f'{self.root.name}_{name}'
        if resume_from or load_from:
            cfg.resume, cfg.load_from = bool(resume_from), str(self.root / (resume_from or load_from) / 'epoch_1.pth')
        path = self.root / f'{name}.py'
        cfg.dump(path)
        return path

    def alone(self, *args) -> None:
        Runner.from_cfg(Config.fromfile(self.config(*args))).train()

    def on_two_processes(self, *configs: Path) -> None:
        python_on_ranks(2, 'tests/engine/distributed_runs.py', *configs)

    def checkpoint(self, name: str, epoch: int) -> dict:
        return torch.load(self.root / name / f'epoch_{epoch}.pth', weights_only=False)

    def logged(self, name: str, key: str) -> list[float]:
        (path,) = (self.root / name).glob('*/vis_data/scalars.json')
        return [line[key] for line in map(json.loads, open(path)) if key in line]


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    torch.set_num_threads(1)
    runs = Runs(tmp_path_factory.mktemp('distributed'))
    runs.alone('single', WHOLE)
    configs = [runs.config(name, overrides) for name, overrides in TWO_PROCESSES.items()]
    configs += [
        runs.config('fsdp_from_single', TWO_PROCESSES['fsdp'], 'single'),
        runs.config('fsdp_from_fsdp', TWO_PROCESSES['fsdp'], 'fsdp'),
        runs.config('ddp_from_fsdp', TWO_PROCESSES['ddp'], 'fsdp'),
    ]
    runs.alone('single_loaded', WHOLE, None, 'single')
    configs.append(runs.config('fsdp_loaded', TWO_PROCESSES['fsdp'], None, 'single'))
    runs.on_two_processes(*configs)
    runs.alone('single_from_fsdp', WHOLE, 'fsdp')
    return runs


@pytest.mark.parametrize('name', TWO_PROCESSES)
def test_two_processes_equal_one(runs, name):
    for epoch in (1, 2):
        states = (runs.checkpoint(run, epoch)['state_dict'] for run in ('single', name))
        assert_same_state(*states, atol=1e-5)
    assert runs.logged(name, 'knn5_T0.07_top1') == runs.logged('single', 'knn5_T0.07_top1')
    if 'accumulated' not in name:
        for key in ('loss_cls', 'loss_query', 'lr'):
            assert runs.logged(name, key) == pytest.approx(runs.logged('single', key), abs=1e-5), key


def test_the_recipe_moves_all_that_is_compared(runs):
    """The last layer stays in the first epoch and moves in the second; centers and everything else move in both."""
    states = [runs.checkpoint('single', epoch)['state_dict'] for epoch in (1, 2)]
    last_layer = {name for name in states[0] if 'student' in name and name.endswith('last_layer.weight_v')}
    assert len(last_layer) == 2
    assert not any(torch.equal(states[0][name], states[1][name]) for name in last_layer)
    moments = [runs.checkpoint('single', epoch)['optimizer']['state'] for epoch in (1, 2)]
    assert len(moments[1]) - len(moments[0]) == len(last_layer)
    assert all(states[0][f'loss_{kind}.center'].any() for kind in ('cls', 'query'))


@pytest.mark.parametrize('name', ['fsdp', 'fsdp_accumulated', 'fsdp_grad_op'])
def test_each_process_holds_half_of_the_parameters(runs, name):
    whole = sum(value.numel() for key, value in runs.checkpoint('single', 2)['state_dict'].items() if 'center' not in key)
    held = [int((runs.root / name / f'held_by_rank{rank}').read_text()) for rank in (0, 1)]
    assert sum(held) == whole
    assert max(held) < 0.6 * whole
    ddp = [int((runs.root / 'ddp' / f'held_by_rank{rank}').read_text()) for rank in (0, 1)]
    assert ddp == [whole, whole]


def test_weights_load_into_shards(runs):
    states = [runs.checkpoint(name, 1)['state_dict'] for name in ('single_loaded', 'fsdp_loaded')]
    assert_same_state(*states, atol=1e-5)


def test_file_of_shards_has_the_layout_of_a_single_process(runs):
    files = [runs.checkpoint(name, 2) for name in ('single', 'fsdp')]
    layouts = [layout({key: file[key] for key in ('state_dict', 'optimizer')}) for file in files]
    assert layouts[0] == layouts[1]
    assert files[0].keys() == files[1].keys()
    assert files[0]['meta']['architecture'] == files[1]['meta']['architecture']
    assert list(files[0]['state_dict']) == list(files[1]['state_dict'])


def layout(node):
    """Nested keys, with shape, type and exact class in the place of tensors."""
    if isinstance(node, dict):
        return {key: layout(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [layout(value) for value in node]
    return (type(node), node.shape, node.dtype) if isinstance(node, torch.Tensor) else type(node)


@pytest.mark.parametrize('name', ['fsdp_from_single', 'fsdp_from_fsdp', 'ddp_from_fsdp', 'single_from_fsdp'])
def test_resumed_elsewhere_equals_uninterrupted(runs, name):
    resumed, whole = runs.checkpoint(name, 2), runs.checkpoint('single', 2)
    assert_same_state(whole['state_dict'], resumed['state_dict'], atol=1e-5)
    assert not (runs.root / name / 'epoch_1.pth').exists()  # it began where the other ended
    for key, moments in whole['optimizer']['state'].items():
        for kind, value in moments.items():
            torch.testing.assert_close(resumed['optimizer']['state'][key][kind], value, rtol=0, atol=1e-5)
