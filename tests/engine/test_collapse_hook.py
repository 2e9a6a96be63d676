"""Each way to break a run brings its own verdict, a sound run none."""

from __future__ import annotations

import json

import pytest
import torch
from counters import CallCounter
from mmengine.hooks import Hook
from poison import NaNImages

from mmadclr.checkpoint import read_checkpoint
from mmadclr.engine import Runner
from mmadclr.engine.hooks.collapse_hook import CollapseError, CollapseMonitorHook
from mmadclr.evaluation.observation import rows_of_first_pair
from mmadclr.models.losses.self_distillation import ProjectedFeatures, SelfDistillationLoss

DEMOS = {name: f'configs/demo/{name}_vittiny_shapes.py' for name in ('adclr', 'dino', 'ibot')}
MONITOR = {
    'train_cfg.max_epochs': 9,
    'train_cfg.val_interval': 99,
    'train_dataloader.batch_size': 6,
    'default_hooks.checkpoint.interval': 99,
    'default_hooks.schedule.momentum': (0.9, 0.9),
    'optim_wrapper.optimizer.lr': 0.1,
    'default_hooks.monitor': dict(type='CollapseMonitorHook'),
}


class GrayImages(Hook):
    """All images are gray."""

    def before_train(self, runner) -> None:
        def blank(preprocessor, args, output) -> None:
            for views in output.get('views', {}).values():
                views.zero_()

        runner.model.data_preprocessor.register_forward_hook(blank)


class FavorOnePrototype(Hook):
    """All tokens begin near the first prototype, which centering has to make up for."""

    def before_train(self, runner) -> None:
        for network in (runner.model.student, runner.model.teacher):
            head = network['head']
            with torch.no_grad():
                head.mlp[-1].bias.copy_(20 * head.last_layer.weight_v[0])


def schedule(**settings):
    return {f'default_hooks.schedule.{name}': (value, value) for name, value in settings.items()}


# Method, settings, hook, verdicts. Gray images need weights that stay, else the student soon says the same of all, too.
CASES = {
    'ADCLR': ('adclr', {}, None, set()),
    'DINO': ('dino', {}, None, set()),
    'iBOT': ('ibot', {}, None, set()),
    'teacher frozen': ('adclr', schedule(momentum=1.0), None, {('teacher-still', '')}),
    'momentum 0': (
        'adclr',
        schedule(momentum=0.0) | {'optim_wrapper.optimizer.lr': 0.02},
        None,
        {('teacher-equals-student', '')},
    ),
    'centering off': ('dino', {'model.loss_cls.center_momentum': 1.0}, FavorOnePrototype, {('one-hot', 'cls')}),
    'centering on': ('dino', {'model.loss_cls.center_momentum': 0.5}, FavorOnePrototype, set()),
    'temperature too high': ('dino', schedule(teacher_temp=2.0), None, {('uniform', 'cls')}),
    'gray images': (
        'dino',
        schedule(teacher_temp=0.1) | {'model.loss_cls.center_momentum': 1.0, 'optim_wrapper.optimizer.lr': 1e-3},
        GrayImages,
        {('features', 'cls')},
    ),
    'bidirectional': (
        'adclr',
        {'model.backbone.bidirectional': True, 'model.backbone.query_keys': 'image+queries'},
        None,
        {('leak', 'query')},
    ),
}


@pytest.fixture
def told(monkeypatch):
    """Kinds and terms of all verdicts."""
    told, tell = set(), CollapseMonitorHook.tell

    def listen(hook, runner, verdict):
        told.add(verdict[:2])
        tell(hook, runner, verdict)

    monkeypatch.setattr(CollapseMonitorHook, 'tell', listen)
    return told


@pytest.mark.parametrize('name', CASES)
def test_the_right_verdict_and_no_other(small_config, told, name):
    method, settings, hook, expected = CASES[name]
    runner = Runner.from_cfg(small_config(MONITOR | settings, config=DEMOS[method]))
    if hook is not None:
        runner.register_hook(hook(), priority='LOWEST')
    runner.train()
    assert told == expected


def scalars(runner) -> list[dict]:
    return [json.loads(line) for line in open(f'{runner.log_dir}/vis_data/scalars.json')]


def log_of(runner) -> str:
    return open(f'{runner.log_dir}/{runner.timestamp}.log').read()


def test_what_is_logged(small_config, told):
    """All statistics of both terms to JSON, the entropies to the terminal."""
    runner = Runner.from_cfg(small_config(MONITOR | schedule(momentum=1.0)))
    runner.train()
    names = {'entropy', 'kl', 'prototypes', 'top_share', 'spread', 'rank', 'cosine'}
    seen = [set(line) for line in scalars(runner)]
    for term, more in (('cls', set()), ('query', {'leak'})):
        assert seen.count({f'monitor/{term}_{name}' for name in names | more} | {'step'}) == 18
    assert seen.count({'monitor/teacher_distance', 'monitor/teacher_norm', 'monitor/teacher_momentum', 'step'}) == 18
    log = log_of(runner)
    assert log.count('entropy_cls: ') == log.count('entropy_query: ') == 18
    assert 'monitor/' not in log
    # The warm-up is over after 2 iterations. The line comes in several epochs, but mmengine drops warnings it has written.
    assert log.count('the teacher has not changed since iteration 3 (its momentum is 1') == 1


def test_iterations_between_are_as_without_the_hook(small_config):
    """Neither hooks on modules, nor anything that waits for the device."""
    cfg = small_config(MONITOR | {'default_hooks.logger.interval': 99, 'train_dataloader.batch_size': 2})
    runner, syncs = Runner.from_cfg(cfg), []
    monitor = next(hook for hook in runner.hooks if isinstance(hook, CollapseMonitorHook))

    class Watch(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            assert bool(monitor.handles) == (batch_idx == 5)
            assert all(bool(loss._forward_hooks) == (batch_idx == 5) for loss in runner.model.distillation_losses())

    after = monitor.after_train_iter

    def counted(*args, **kwargs):
        with CallCounter() as counter:
            after(*args, **kwargs)
        syncs.append(counter.operations)

    monitor.after_train_iter = counted
    runner.register_hook(Watch(), priority='LOWEST')
    runner.train()
    assert [bool(number) for number in syncs] == 9 * [False, False, False, False, False, True]


def test_weights_are_those_of_a_run_without_the_hook(small_config):
    states = []
    for name in ('with', 'without'):
        cfg = small_config(MONITOR | {'model.backbone.drop_path_rate': 0.3}, work_dir=name)
        if name == 'without':
            cfg.default_hooks.monitor = None
        runner = Runner.from_cfg(cfg)
        runner.train()
        states.append(runner.model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_resumed_run_goes_on_judging(small_config, told):
    """Observations 3 to 6 are from before, the fifth that is judged is the first after it."""
    settings = MONITOR | schedule(momentum=1.0) | {'default_hooks.checkpoint.interval': 1}
    whole = Runner.from_cfg(small_config(settings | {'train_cfg.max_epochs': 3}, work_dir='first'))
    whole.train()
    assert told == set()
    resume = {'resume': True, 'load_from': f'{whole.work_dir}/epoch_3.pth', 'train_cfg.max_epochs': 4}
    resumed = Runner.from_cfg(small_config(settings | resume, work_dir='second'))
    resumed.train()
    assert told == {('teacher-still', '')}
    assert 'has not changed since iteration 3' in log_of(resumed)


@pytest.mark.parametrize('counts', [1, 4])
def test_a_run_can_end_at_a_verdict_with_a_checkpoint(small_config, counts):
    """The verdict comes at iteration 7; a step of 4 batches ends at iteration 8."""
    settings = MONITOR | schedule(momentum=1.0) | {'optim_wrapper.accumulative_counts': counts}
    settings |= {'default_hooks.monitor.stop_on': ['uniform', 'teacher-still']}
    runner = Runner.from_cfg(small_config(settings))
    done = 8 if counts == 4 else 7
    with pytest.raises(CollapseError, match=rf'^the teacher has not changed.* checkpoint saved to .*iter_{done}\.pth'):
        runner.train()
    assert read_checkpoint(f'{runner.work_dir}/iter_{done}.pth')['meta']['iter'] == done


def test_a_skipped_step_is_no_observation(small_config, told):
    runner = Runner.from_cfg(small_config(MONITOR))
    runner.register_hook(NaNImages([4]), priority='LOWEST')
    runner.train()
    steps = [line['step'] for line in scalars(runner) if 'monitor/cls_entropy' in line]
    assert steps == [number for number in range(1, 19) if number != 5]


def test_rows_are_those_of_views_that_are_compared():
    """Cross-view: the teacher's first view and the student's second; same-view: the first of both."""
    views = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 6, 3, 8)
    sides = [ProjectedFeatures(views.bfloat16(), torch.nn.Identity())] * 2
    for pairing, of_student in (('cross-view', 1), ('same-view', 0)):
        loss = SelfDistillationLoss(out_dim=8, pairing=pairing)
        student, teacher = rows_of_first_pair(loss, *sides, number=10)
        assert student.features.shape == teacher.features.shape == (9, 8)
        assert student.features.unique().tolist() == [of_student]
        assert teacher.features.unique().tolist() == [0]


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(rows=1), 'rows=1'),
        (dict(patience=0), 'patience=0'),
        (dict(stop_on=['flat']), 'must be a list of kinds, of uniform, one-hot'),
    ],
)
def test_bad_arguments_are_explained(settings, message):
    with pytest.raises(ValueError, match=message):
        CollapseMonitorHook(**settings)
