"""Whole runs: resumed equals uninterrupted, accumulated equals joint, honest batch arithmetic, clear errors."""

import json
import logging
import math

import pytest
import torch
from comparisons import assert_same_state

from mmadclr.config.check import ConfigError
from mmadclr.datasets import UnreadableImageError
from mmadclr.engine import Runner
from mmadclr.models.backbones.query_block import has_fused_attention


def losses(runner):
    lines = [json.loads(line) for line in open(f'{runner.log_dir}/vis_data/scalars.json')]
    return [line['loss'] for line in lines if 'loss' in line]


def state_dict(path):
    return torch.load(path, weights_only=False)['state_dict']


def test_training_moves_both_networks_and_reports_knn(train):
    runner = train({'default_hooks.schedule.momentum': (0.9, 0.9)})
    first, second = (state_dict(f'{runner.work_dir}/epoch_{epoch}.pth') for epoch in (1, 2))
    still = {name for name in first if torch.equal(first[name], second[name])}
    assert still == {f'{network}.head.last_layer.weight_g' for network in ('student', 'teacher')}
    assert {'loss_cls.center', 'loss_query.center'} < set(first)
    assert len(losses(runner)) == 6
    scalars = open(f'{runner.log_dir}/vis_data/scalars.json').read()
    for key in ('knn5_T0.07_top1', 'images_per_s', 'lr', 'weight_decay', 'teacher_momentum', 'teacher_temp', 'loss_query'):
        assert f'"{key}"' in scalars, key


@pytest.mark.parametrize('leave_out', [{}, {'type': None, 'constructor': None}])
def test_no_config_can_lose_the_teacher(small_config, leave_out):
    """Not without the type of the wrapper, nor with the hook that older configs name: it moves once a step, always."""
    states = []
    for work_dir in ('plain', 'other'):
        cfg = small_config({'train_cfg.max_epochs': 1, 'default_hooks.schedule.momentum': (0.5, 0.5)}, work_dir)
        if work_dir == 'other':
            cfg.default_hooks.teacher = dict(type='TeacherUpdateHook')
            cfg.default_hooks.monitor = None
            for key in leave_out:
                del cfg.optim_wrapper[key]
        runner = Runner.from_cfg(cfg)
        start = {name: value.clone() for name, value in runner.model.teacher.state_dict().items()}
        runner.train()
        states.append(runner.model.teacher.state_dict())
    assert not torch.equal(states[0]['backbone.blocks.0.attn.qkv.weight'], start['backbone.blocks.0.attn.qkv.weight'])
    assert_same_state(*states)


@pytest.mark.parametrize('wrapper', [dict(type='OptimWrapper'), dict(type='AutocastOptimWrapper', precision='fp32')])
def test_a_step_that_would_leave_the_teacher_behind_is_refused(small_config, wrapper):
    cfg = small_config()
    cfg.optim_wrapper = dict(**wrapper, optimizer=dict(type='AdamW', lr=1e-3))
    with pytest.raises(ValueError, match=f'{wrapper["type"]} does not update the teacher of ADCLR; remove type and'):
        Runner.from_cfg(cfg).train()


def test_teacher_moves_once_per_step_with_the_scheduled_momentum(train, monkeypatch):
    """The update rule after every optimizer step, with the scheduled momentum."""
    from mmadclr.models.selfsup.base import SelfDistillation

    momenta = []
    after_step = SelfDistillation.after_step

    def checked(self, skipped=None):
        before = {k: v.clone() for k, v in self.teacher.state_dict().items()}
        student = self.student.state_dict()
        after_step(self, skipped)
        momenta.append(self.teacher_momentum)
        for name, value in self.teacher.state_dict().items():
            expected = momenta[-1] * before[name] + (1 - momenta[-1]) * student[name]
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)

    monkeypatch.setattr(SelfDistillation, 'after_step', checked)
    train()
    assert momenta == sorted(momenta)
    assert len(momenta) == 6
    assert momenta[0] == 0.98


def test_resumed_equals_uninterrupted(train):
    """With drop path, so that torch's random state matters too; weights, centers, optimizer and losses."""
    random = {'model.backbone.drop_path_rate': 0.3}
    whole = train(random, work_dir='whole')
    resumed = train(
        random | {'resume': True, 'load_from': f'{whole.work_dir}/epoch_1.pth'},
        work_dir='resumed',
    )
    assert_same_state(whole.model.state_dict(), resumed.model.state_dict())
    assert losses(resumed) == losses(whole)[3:]
    moments = [runner.optim_wrapper.state_dict()['state'] for runner in (whole, resumed)]
    for key, state in moments[0].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(moments[1][key][name])), (key, name)


def test_accumulated_batches_equal_the_joint_batch(train):
    joint = train({'train_dataloader.batch_size': 4, 'train_dataloader.sampler.shuffle': False}, work_dir='joint')
    split = train(
        {
            'train_dataloader.batch_size': 2,
            'train_dataloader.sampler.shuffle': False,
            'optim_wrapper.accumulative_counts': 2,
        },
        work_dir='split',
    )
    assert split.iter == 2 * joint.iter
    assert_same_state(joint.model.state_dict(), split.model.state_dict(), atol=1e-5)


def test_learning_rate_follows_the_total_batch(train, caplog):
    with caplog.at_level(logging.INFO, logger='mmengine'):
        runner = train({'train_dataloader.batch_size': 2, 'optim_wrapper.accumulative_counts': 3, 'train_cfg.max_epochs': 1})
    peak = 3e-3 * 6 / 64
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'DistillationScheduleHook')
    assert hook.tables['lr'].max() == pytest.approx(peak)
    log = open(f'{runner.log_dir}/{runner.timestamp}.log').read()
    assert 'total batch size 2 images x 1 processes x 3 accumulated = 6, so the peak is 0.00028125' in log


def test_batch_larger_than_the_data_set(train):
    with pytest.raises(
        ValueError, match=r'a batch of 64 images x 1 processes is larger than .* \(12 images\): lower train_dataloader'
    ):
        train({'train_dataloader.batch_size': 64})


def test_more_accumulated_batches_than_the_run_has(train):
    with pytest.raises(ValueError, match='accumulative_counts=100 is more than the 6 batches of the run'):
        train({'optim_wrapper.accumulative_counts': 100})


def test_checkpoint_of_another_architecture(train):
    whole = train({'train_cfg.max_epochs': 1}, work_dir='first')
    path = f'{whole.work_dir}/epoch_1.pth'
    other = {'model.backbone.arch': dict(embed_dim=36, depth=2, num_heads=3, patch_size=8), 'load_from': path}
    for resume in (False, True):
        with pytest.raises(
            ValueError, match=r'epoch_1\.pth does not match the model of the config: \d+ of \d+ tensors differ'
        ):
            train(other | {'resume': resume}, work_dir=f'other{resume}')


def test_checkpoint_of_another_number_of_heads(train):
    """Every tensor fits, and yet it would be another network."""
    whole = train({'train_cfg.max_epochs': 1}, work_dir='first')
    arch = dict(embed_dim=24, depth=2, num_heads=6, patch_size=8)
    with pytest.raises(ValueError, match=r'attention heads differ \(student\.backbone\.blocks\.0\.attn: file 3, model 6'):
        train({'model.backbone.arch': arch, 'load_from': f'{whole.work_dir}/epoch_1.pth'}, work_dir='other')


@pytest.mark.parametrize('batch_size', [2, 6])
def test_resuming_with_another_batch_size_goes_on_at_the_right_place(train, batch_size):
    whole = train(work_dir='whole')
    resumed = train(
        {'train_dataloader.batch_size': batch_size, 'resume': True, 'load_from': f'{whole.work_dir}/epoch_1.pth'},
        work_dir='resumed',
    )
    assert resumed.iter == resumed.max_iters == 2 * 12 // batch_size
    log = open(f'{resumed.log_dir}/{resumed.timestamp}.log').read()
    assert f'were 4, 3 and 1 when the checkpoint was saved, and are {batch_size}, {12 // batch_size} and 1 now' in log


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        ({'train_dataloader.batch_size': 0}, 'batch_size=0 of a data loader must be at least 1'),
        ({'train_cfg.max_epochs': 0}, 'max_epochs=0 must be at least 1'),
        ({'default_hooks.schedule.momentum': (0.9, 1.5)}, r'momentum=\(0\.9, 1\.5\): both ends must lie in'),
        ({'default_hooks.schedule.momentum': (0.9,)}, r'momentum=\(0\.9,\): must be two numbers'),
        (
            {'default_hooks.schedule.weight_decay': (0.04, 0.1, 0.4)},
            r'weight_decay=.*0\.4\): must be two numbers',
        ),
        ({'default_hooks.schedule.teacher_temp': (0.0, 0.1)}, 'both ends must be positive'),
        ({'train_cfg': dict(_delete_=True, type='IterBasedTrainLoop', max_iters=3)}, 'the schedules are per epoch'),
    ],
)
def test_impossible_settings_are_explained(train, overrides, message):
    with pytest.raises(ValueError, match=message):
        train(overrides)


def test_persistent_workers_are_dropped_where_there_are_no_workers(train):
    runner = train({'train_dataloader.persistent_workers': True, 'train_cfg.max_epochs': 1})
    assert not runner.train_dataloader.persistent_workers


def test_missing_checkpoint(train):
    with pytest.raises(ConfigError, match=r'load_from: checkpoint nowhere\.pth does not exist'):
        train({'load_from': 'nowhere.pth'})


def image_config(small_config, root, **overrides):
    cfg = small_config()
    cfg.train_dataloader.dataset = dict(
        type='ImageDataset', data_root=str(root), transform=cfg.train_dataloader.dataset.transform
    )
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.merge_from_dict(overrides)
    return cfg


def test_unreadable_images_are_logged_once_counted_and_limited(small_config, image_folder):
    root = image_folder(count=12)
    broken = root / 'class0' / '002.png'
    broken.write_text('no image')
    runner = Runner.from_cfg(image_config(small_config, root))
    runner.train()
    log = open(f'{runner.log_dir}/{runner.timestamp}.log').read()
    assert log.count(f'replaced by the next one: {broken}') == 1
    for epoch in (1, 2):
        assert f'epoch {epoch}: 1 unreadable images replaced' in log
    cfg = image_config(small_config, root, **{'default_hooks.unreadable.max_unreadable': 0})
    cfg.experiment_name += '_limited'
    with pytest.raises(UnreadableImageError, match=r'more than max_unreadable=0.*002\.png'):
        Runner.from_cfg(cfg).train()


def test_losses_that_are_not_finite_stop_the_run(small_config):
    runner = Runner.from_cfg(small_config())
    with torch.no_grad():
        runner.model.student.backbone.cls_token.fill_(math.nan)
    runner._init_model_weights = lambda: None
    with pytest.raises(FloatingPointError, match=r'loss, loss_cls.* not finite at iteration 0 .*images \['):
        runner.train()


def test_broken_teacher_stays_where_it_began(train):
    """The control of the demo: momentum 1 never moves the teacher, while the student trains."""
    runner = train({'default_hooks.schedule.momentum': (1.0, 1.0)})
    first, second = (state_dict(f'{runner.work_dir}/epoch_{epoch}.pth') for epoch in (1, 2))
    moved = {name for name in first if not torch.equal(first[name], second[name])}
    assert not [name for name in moved if name.startswith('teacher.')]
    assert [name for name in moved if name.startswith('student.')]


def test_bank_that_does_not_fit_the_validation_set(small_config, image_folder):
    cfg = small_config({'val_cfg.bank': dict(splt='train')})
    with pytest.raises(ValueError, match=r'bank_dataloader\.dataset\.splt: .*did you mean split\?'):
        Runner.from_cfg(cfg).val()
    val, bank = (image_folder(classes=classes, name=f'{classes}') for classes in (2, 3))
    cfg = small_config()
    cfg.val_cfg.bank = dict(data_root=str(bank))
    cfg.val_dataloader.dataset = dict(
        type='ImageDataset', data_root=str(val), with_label=True, transform=cfg.val_dataloader.dataset.transform
    )
    cfg.experiment_name += '_classes'
    with pytest.raises(ValueError, match='have different classes'):
        Runner.from_cfg(cfg).val()


def test_slow_paths_are_said(train, monkeypatch):
    """A GPU without a fused attention kernel, and mmengine's hook that waits in every iteration."""
    monkeypatch.setattr('mmadclr.models.backbones.query_block.has_fused_attention', lambda *_: False)
    one_epoch = {'train_cfg.max_epochs': 1, 'default_hooks.runtime_info': dict(_delete_=True, type='RuntimeInfoHook')}
    runner = train(one_epoch)
    log = open(f'{runner.log_dir}/{runner.timestamp}.log').read()
    assert 'no fused kernel for torch.float32 with 24 channels in 3 heads on this GPU, so the full attention matrix' in log
    assert 'RuntimeInfoHook synchronizes with the device in every iteration' in log
    assert has_fused_attention(8, torch.device('cpu'), torch.float32)
