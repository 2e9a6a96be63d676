"""Learning rates by layer of the student, and the backbone that is frozen at first."""

import numpy as np
import pytest
import torch
from comparisons import assert_same_state
from golden_files import GoldenFolder
from places import DATA
from torch import nn

from mmadclr.checkpoint import read_checkpoint
from mmadclr.engine import Runner
from mmadclr.engine.hooks.schedule_hook import late_cosine
from mmadclr.engine.optimizers.student_groups import decays, layer_groups, rate_scale, read_paramwise
from mmadclr.schedules import cosine_schedule

LAYERS = {
    'optim_wrapper.paramwise_cfg': dict(layer_decay=0.5, patch_embed_scale=0.25, head_scale=3.0),
    'default_hooks.schedule.warmup_epochs': 0,
    'default_hooks.schedule.weight_decay': (0.25, 0.25),
    'auto_scale_lr.enable': False,
}


@pytest.fixture
def golden():
    return GoldenFolder(DATA / 'golden_modern')('dinov2_param_groups')


def test_rates_and_decay_are_those_of_the_published_code(golden):
    config = golden['config']
    scales = dict(layer_decay=config['layerwise_decay'], patch_embed_scale=config['patch_embed_lr_mult'], head_scale=1.0)
    for name, published in golden['block_chunks_0']['parameters'].items():
        ours = name.replace('register_tokens', 'reg_token').replace('dino_head', 'head').replace('ibot_head', 'patch_head')
        assert rate_scale(ours, config['depth'], **scales) == pytest.approx(published['lr_multiplier'], abs=1e-12), name
        parameter = nn.Parameter(
            torch.zeros(2, 2) if name.endswith(('weight', 'token', 'tokens', 'embed', '_g', '_v')) else torch.zeros(2)
        )
        if 'norm' not in name:
            assert decays(ours, parameter) == bool(published['wd_multiplier']), name


def test_groups_have_every_trainable_parameter_once():
    student = nn.ModuleDict({'backbone': nn.ModuleDict({'norm': nn.LayerNorm(2)}), 'head': nn.Linear(2, 2)})
    student['head'].bias.requires_grad_(False)
    groups = layer_groups(student.named_parameters(), 1, 0.5, read_paramwise(dict(head_scale=2.0)))
    assert [(group['part'], group['lr'], group['decays'], len(group['params'])) for group in groups] == [
        ('backbone', 0.5, False, 2),
        ('head', 1.0, True, 1),
    ]
    assert groups[0]['weight_decay'] == 0.0


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(decay_rate=0.5), 'paramwise_cfg has no effect for decay_rate in pretraining: accepted are layer_decay'),
        (dict(layer_decay=0), r'layer_decay=0 must be in \(0, 1\]'),
        (dict(head_scale=0.0), 'head_scale=0.0 must be positive'),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        read_paramwise(settings)


def test_the_schedule_of_a_late_backbone_is_dinos_after_zeros():
    table = late_cosine(1.0, 0.1, 10, 2, 4)
    np.testing.assert_array_equal(table[:4], 0)
    np.testing.assert_allclose(table[4:], cosine_schedule(1.0, 0.1, 6, 2))
    assert len(late_cosine(1.0, 0.1, 3, 2, 5)) == 3


def rates(runner):
    return {(group['part'], group['lr_scale']): group['lr'] for group in runner.optim_wrapper.optimizer.param_groups}


def test_a_run_scales_every_rate(train):
    runner = train(LAYERS | {'default_hooks.schedule.min_lr': 3e-3})
    assert rates(runner) == pytest.approx(
        {
            ('backbone', 0.125): 3.75e-4,  # tokens and positions
            ('backbone', 0.125 * 0.25): 9.375e-5,
            ('backbone', 0.25): 7.5e-4,
            ('backbone', 0.5): 1.5e-3,
            ('backbone', 1.0): 3e-3,
            ('head', 3.0): 9e-3,
        }
    )
    decay = {(group['decays'], group['weight_decay']) for group in runner.optim_wrapper.optimizer.param_groups}
    assert decay == {(True, 0.25), (False, 0.0)}


def test_only_heads_train_while_the_backbone_is_frozen(train):
    """Of two epochs of three steps: a frozen one, and one in which all parameters train."""
    runner = train(LAYERS | {'default_hooks.schedule.freeze_backbone_epochs': 1})
    states = [read_checkpoint(f'{runner.work_dir}/epoch_{epoch}.pth')['state_dict'] for epoch in (1, 2)]
    first, second = states
    for name, tensor in first.items():
        if name.startswith('student.backbone.'):
            assert torch.equal(tensor, first[name.replace('student', 'teacher')]), name
            assert not torch.equal(tensor, second[name]), name
        elif name.startswith('student.head.') and 'weight_g' not in name:
            assert not torch.equal(tensor, second[name]), name
            assert not torch.equal(tensor, first[name.replace('student', 'teacher')]), name
    assert all(parameter.requires_grad for parameter in runner.model.student['backbone'].parameters())


def test_gradients_of_several_processes_are_dropped_instead(train, monkeypatch):
    monkeypatch.setattr('mmadclr.engine.hooks.schedule_hook.is_distributed', lambda: True)
    overrides = LAYERS | {'default_hooks.schedule.freeze_backbone_epochs': 1}
    dropped = train(overrides, work_dir='dropped')
    monkeypatch.undo()
    frozen = train(overrides, work_dir='frozen')
    states = [read_checkpoint(f'{run.work_dir}/epoch_2.pth')['state_dict'] for run in (dropped, frozen)]
    assert_same_state(*states, atol=1e-6)


def test_resuming_in_the_frozen_part_changes_nothing(train, small_config, tmp_path):
    overrides = LAYERS | {'default_hooks.schedule.freeze_backbone_epochs': 1.5}
    whole = train(overrides, work_dir='whole')
    cfg = small_config(overrides, work_dir='resumed')
    cfg.resume, cfg.load_from = True, f'{whole.work_dir}/epoch_1.pth'
    Runner.from_cfg(cfg).train()
    states = [read_checkpoint(f'{run}/epoch_2.pth')['state_dict'] for run in (whole.work_dir, cfg.work_dir)]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
