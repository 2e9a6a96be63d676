"""NaN on one of two processes: both skip the step, and both end alike. The monitor sees what one process would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from comparisons import assert_same_state
from mmengine.config import Config
from places import REPO
from poison import LeaveOut
from programs import python_on_ranks

from mmadclr.checkpoint import read_checkpoint
from mmadclr.engine import Runner

BASE = {
    'train_cfg.max_epochs': 2,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'default_hooks.schedule.warmup_epochs': 1,
    'default_hooks.schedule.freeze_last_layer_epochs': 1,
    'default_hooks.schedule.momentum': (0.9, 0.9),
    'default_hooks.logger.interval': 2,
    'default_hooks.checkpoint.interval': 1,
    'model.backbone.arch': dict(embed_dim=24, depth=2, num_heads=3, patch_size=8),
    'optim_wrapper.max_norm': 0.1,
    'default_hooks.monitor': dict(type='CollapseMonitorHook'),
}
HALF = {'train_dataloader.batch_size': 2}
RUNS = {
    'ddp': HALF,
    'ddp_accumulated': {'train_dataloader.batch_size': 1, 'optim_wrapper.accumulative_counts': 2},
    'fsdp': HALF | {'sharding': 'fsdp'},
    'ended': HALF | {'default_hooks.runtime_info.max_skipped': 2},
}
BROKEN = {'ddp_accumulated': [3, 9], 'ended': [4, 5]}


def config(root: Path, name: str, overrides: dict) -> Path:
    cfg = Config.fromfile(REPO / 'configs/demo/adclr_vittiny_shapes.py')
    cfg.merge_from_dict(BASE | overrides)
    cfg.train_dataloader.dataset.update(data_root=str(root / 'shapes'), num_train=12, num_val=10, image_size=32)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    cfg.work_dir, cfg.experiment_name = str(root / name), f'{root.name}_{name}'
    cfg.broken_iterations = BROKEN.get(name, [1, 4])
    path = root / f'{name}.py'
    cfg.dump(path)
    return path


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Iterations 1 and 4 of 6 are left out by hand on one process, and broken on the second of two."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp('guard')
    runner = Runner.from_cfg(Config.fromfile(config(root, 'single', {'train_dataloader.batch_size': 4})))
    runner.register_hook(LeaveOut([1, 4]), priority='LOWEST')
    runner.train()
    configs = [config(root, name, overrides) for name, overrides in RUNS.items()]
    python_on_ranks(2, 'tests/engine/guard_runs.py', *configs)
    return root


@pytest.mark.long
@pytest.mark.parametrize('name', ['ddp', 'ddp_accumulated', 'fsdp'])
def test_both_skip_what_one_could_not_do(root, name):
    want, got = (read_checkpoint(root / run / 'epoch_2.pth') for run in ('single', name))
    assert_same_state(want['state_dict'], got['state_dict'], atol=1e-5)
    steps = [[state['step'].item() for state in file['optimizer']['state'].values()] for file in (want, got)]
    assert steps[0] == steps[1]
    assert max(steps[0]) == 4


@pytest.mark.parametrize('name', RUNS)
def test_the_record_names_the_process_and_its_images(root, name):
    lines = [json.loads(line) for line in open(root / name / 'skipped_steps.jsonl')]
    assert len(lines) == 2
    for line in lines:
        losses = {(batch['rank'], batch['iteration']): batch['losses']['loss_cls'] for batch in line['batches']}
        broken = [place for place, loss in losses.items() if loss != loss]
        assert len(losses) == (4 if name == 'ddp_accumulated' else 2)
        assert len(broken) == 1
        assert broken[0][0] == 1
        assert broken[0][1] in BROKEN.get(name, [1, 4])
        images = [image for batch in line['batches'] for image in batch['images']]
        assert len(set(images)) == 4


def test_both_end_alike_and_leave_a_replay_with_the_states_of_both(root):
    errors = [(root / 'ended' / f'error_of_rank{rank}').read_text() for rank in (0, 1)]
    assert errors[0] == errors[1]
    assert '2 consecutive steps were skipped' in errors[0]
    assert 'epoch_1.pth' in errors[0]
    position = read_checkpoint(root / 'ended' / 'nonfinite_iter_4.pth')['position']
    assert (position['epoch'], position['batch'], len(position['random'])) == (1, 1, 2)


def monitored(root: Path, name: str) -> dict[int, dict[str, float]]:
    """Statistics of the monitor by iteration."""
    (path,) = (root / name).glob('*/vis_data/scalars.json')
    found: dict[int, dict[str, float]] = {}
    for line in map(json.loads, open(path)):
        values = {key: value for key, value in line.items() if key.startswith('monitor/')}
        found.setdefault(line['step'], {}).update(values)
    return found


@pytest.mark.parametrize('name', ['ddp', 'fsdp'])
def test_statistics_are_means_over_processes(root, name):
    """All of those that are means over tokens are what one process finds; ranks and counts are not of this kind."""
    want, got = monitored(root, 'single'), monitored(root, name)
    means = [f'monitor/{term}_{key}' for term in ('cls', 'query') for key in ('entropy', 'kl', 'cosine')]
    for step in (3, 6):  # the others that are logged are of broken steps
        for key in (*means, 'monitor/teacher_distance', 'monitor/teacher_norm'):
            assert got[step][key] == pytest.approx(want[step][key], rel=1e-3), (step, key)
        assert got[step]['monitor/query_leak'] == want[step]['monitor/query_leak'] == 0
    assert not {'monitor/cls_kl', 'monitor/query_kl'} & got[2].keys()
