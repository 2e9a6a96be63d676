"""Features that a run keeps for its report: when, of what, and that the run is the same with and without."""

import logging

import pytest
import torch

from mmadclr.engine import Runner
from mmadclr.engine.hooks import feature_hook
from mmadclr.engine.hooks.feature_hook import FeaturePicturesHook
from mmadclr.report.collect import collect
from mmadclr.show.snapshots import examples, read_snapshot, snapshot
from mmadclr.show.study import subject_of

pytestmark = pytest.mark.all_hooks


def snapshots(work):
    files = sorted(work.glob('*/features/iter_*.npz'), key=lambda path: int(path.stem.removeprefix('iter_')))
    return [read_snapshot(path) for path in files]


def warnings(caplog):
    return {record.getMessage() for record in caplog.records if 'pictures of features' in record.getMessage()}


@pytest.fixture
def run(small_config, caplog):
    """Trains with overrides, and keeps what is logged."""

    def train(overrides=None, work_dir='work', change=None):
        runner = Runner.from_cfg(small_config(overrides, work_dir))
        if change:
            change(runner)
        runner.logger.addHandler(caplog.handler)
        with caplog.at_level(logging.WARNING, runner.logger.name):
            runner.train()
        return runner

    return train


def test_moments_are_evenly_spread_and_the_last_is_the_newest_checkpoint(run, tmp_path):
    runner = run({'default_hooks.features.times': 3})
    found = snapshots(tmp_path / 'work')
    assert [(each.iteration, each.epoch) for each in found] == [(0, 0), (2, 0.67), (4, 1.33), (6, 2)]
    shown = examples(runner.val_dataloader.dataset)
    assert found[0].names == tuple(name for name, _ in shown)
    expected = snapshot(subject_of('a', tmp_path / 'work' / 'epoch_2.pth'), shown, 6, 2.0)
    assert found[-1].shown == expected.shown
    torch.testing.assert_close(found[-1].scores, expected.scores, atol=4e-3, rtol=4e-3)
    torch.testing.assert_close(found[-1].attention, [part / part.max() for part in expected.attention], atol=2e-3, rtol=2e-3)
    assert not torch.equal(found[0].scores[0], found[-1].scores[0])


def test_by_default_no_moment_is_left_out_of_a_short_run(run, tmp_path):
    run()
    assert [each.iteration for each in snapshots(tmp_path / 'work')] == list(range(7))
    files = list((tmp_path / 'work').glob('*/features/*'))
    assert len(files) == 7 + 4
    assert sum(path.stat().st_size for path in files) < 60_000


def test_a_run_is_the_same_with_and_without(run, tmp_path):
    with_them = run(work_dir='with').model.state_dict()
    without = run({'default_hooks.features': None}, 'without').model.state_dict()
    assert with_them.keys() == without.keys()
    assert all(torch.equal(with_them[name], without[name]) for name in with_them)
    assert snapshots(tmp_path / 'without') == []
    assert collect(tmp_path / 'without').features is None


def test_a_resumed_run_continues_them(small_config, run, tmp_path):
    run({'train_cfg.max_epochs': 1})
    cfg = small_config()
    cfg.resume, cfg.experiment_name = True, f'{tmp_path.name}_again'
    resumed = Runner.from_cfg(cfg)
    resumed._log_dir = resumed.log_dir + '0'  # sessions of one second would share a folder
    resumed.train()
    history = collect(tmp_path / 'work').features
    found = history.snapshots if history else []
    assert sorted({each.iteration for each in snapshots(tmp_path / 'work')}) == list(range(7))
    assert len({each.iteration for each in found}) == len(found)


def test_training_images_are_shown_where_there_is_no_validation(small_config):
    cfg = small_config()
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    runner = Runner.from_cfg(cfg)
    assert runner.val_loop is None
    assert feature_hook.dataset_of(runner) is runner.train_dataloader.dataset


def test_a_failure_is_one_warning_and_the_run_goes_on(run, tmp_path, caplog, monkeypatch):
    def refuse(*args):
        raise OSError('no\nspace')

    monkeypatch.setattr('mmadclr.show.snapshots.write_snapshot', refuse)
    runner = run()
    assert runner.iter == 6
    assert warnings(caplog) == {
        'no more pictures of features in the report (OSError: no space); the run goes on, and '
        'default_hooks.features=None disables them'
    }
    assert (tmp_path / 'work/report.html').exists()


def test_runs_without_a_teacher_of_one_process_or_images_of_ours_have_none(small_config, tmp_path, monkeypatch):
    runner, hook = Runner.from_cfg(small_config()), FeaturePicturesHook()
    hook.before_train(runner)
    assert (hook.active, len(snapshots(tmp_path / 'work'))) == (True, 1)
    for file in tmp_path.glob('work/*/features/*'):
        file.unlink()
    runner.sharded = True
    hook.before_train(runner)
    assert hook.active is False
    runner.sharded = False
    for name in ('ImageDataset', 'SelfDistillation'):
        with monkeypatch.context() as patch:
            patch.setattr(feature_hook, name, type('Other', (), {}))
            hook.before_train(runner)
        assert hook.active is False
    assert list(tmp_path.glob('work/*/features/*')) == []


@pytest.mark.parametrize('settings', [dict(times=0), dict(images=0)])
def test_numbers_below_one_are_refused(settings):
    with pytest.raises(ValueError, match=r'times=\d+, images=\d+ of FeaturePicturesHook must be at least 1'):
        FeaturePicturesHook(**settings)


@pytest.mark.parametrize('name', ['selfpatch', 'pqcl', 'adclr_ibot', 'mocov3'])
def test_every_method_has_them(small_config, tmp_path, name):
    cfg = small_config({'train_cfg.max_epochs': 1}, config=f'configs/demo/{name}_vittiny_shapes.py')
    cfg.default_hooks.features = dict(type='FeaturePicturesHook', times=1)
    Runner.from_cfg(cfg).train()
    start, end = snapshots(tmp_path / 'work')
    has_class_token = name != 'selfpatch'
    assert (start.iteration, end.iteration, len(start.scores), len(end.attention)) == (0, 3, 4, 4 * has_class_token)
