"""Runs that become worse than the original stop by themselves, also over interruptions, and say why."""

import math
from pathlib import Path

import pytest
from scripted_scores import run_scripted

from mmadclr.checkpoint.run_files import checkpoints
from mmadclr.engine.hooks.worse_hook import StopWhenWorseHook


def stop(**kwargs):
    return dict(type='StopWhenWorseHook', measure='score', **{'patience': 2, **kwargs})


def run(small_config, scores, worse, resume=False, **kwargs):
    return run_scripted(small_config, scores, resume, worse=worse, **kwargs)


def reason_of(runner):
    return next(hook.reason for hook in runner.hooks if isinstance(hook, StopWhenWorseHook))


@pytest.mark.parametrize(
    ('scores', 'settings', 'epochs'),
    [
        ([4.0, 4.0, 6.0, 6.0], {}, 2),
        ([4.0, 5.0, 4.0, 5.0], {}, 4),  # never twice in a row; equal is not worse
        ([4.5, 3.9, 3.9, 3.9], dict(margin=1.0), 3),
        ([6.0, 6.0, 4.0, 4.0], dict(rule='less'), 2),
        ([math.nan, math.nan, 9.0, 9.0], {}, 2),
        ([4.0, 4.0, 4.0, 4.0], dict(patience=4), 4),
    ],
)
def test_patience_margin_and_rule(small_config, scores, settings, epochs):
    runner = run(small_config, scores, stop(**settings), original=5.0)
    assert runner.epoch == epochs
    stopped = scores != [4.0, 5.0, 4.0, 5.0]
    assert (reason_of(runner) is not None) == stopped
    log = Path(runner.log_dir, f'{runner.timestamp}.log').read_text()
    assert ('of the original model (5) in' in log) == stopped


def test_by_default_differences_within_two_standard_errors_do_not_count(small_config):
    scores = [4.5, 4.1, 4.5, 3.9, 3.9]
    assert run(small_config, scores, stop(), original=5.0, error=0.5).epoch == 5
    assert reason_of(run(small_config, scores, stop(), original=5.0, error=0.5)) is not None
    assert run(small_config, scores, stop(margin=0.0), original=5.0, error=0.5).epoch == 2


def test_the_reason_says_what_happened_and_what_to_use(small_config):
    keep = dict(type='KeepBestHook', measure='score')
    text = reason_of(run(small_config, [6.0, 4.0, 3.0, 6.0], stop(), original=5.0, best=keep))
    assert text.startswith('stopped after iteration 9: score has been below that of the original model (5) in 2 consecutive')
    assert 'now 3: the model becomes worse' in text
    assert 'The best of the run is better than the original (6): use best_score.pth.' in text
    assert 'Lower the learning rate' in text
    text = reason_of(run(small_config, [4.0, 3.0], stop(), original=5.0, best=keep))
    assert 'not better than the original either (4, best_score.pth): keep the original weights' in text
    assert 'Keep the original weights' in reason_of(run(small_config, [4.0, 3.0], stop(), original=5.0))


def test_the_count_is_part_of_the_state(small_config):
    run(small_config, [6.0, 4.0], stop(patience=3), original=5.0)
    # Of the evaluation at the end of epoch 2, which is repeated, and of epochs 3 and 4.
    resumed = run(small_config, [4.0, 4.0, 4.0, 4.0], stop(patience=3), True, epochs=9, original=5.0)
    assert resumed.epoch == 4
    again = run(small_config, [4.0, 4.0], stop(patience=3), True, epochs=9, original=5.0)
    assert again.epoch == 4  # stops again at the evaluation that is repeated
    assert not list(Path(again.work_dir).glob('iter_*.pth'))
    more = run(small_config, [4.0] * 9, stop(patience=5), True, epochs=9, original=5.0)
    assert more.epoch == 6


def test_a_new_run_counts_anew(small_config):
    run(small_config, [4.0], stop(), original=5.0)
    assert run(small_config, [4.0, 6.0], stop(), original=5.0).epoch == 2


def test_a_run_without_checkpoints_saves_one_before_it_stops(small_config):
    settings = dict(checkpoint_interval=None)
    runner = run(small_config, [4.0, 4.0, 4.0], stop(), original=5.0, **settings)
    assert [path.name for path in checkpoints(runner.work_dir)] == ['iter_6.pth']
    resumed = run(small_config, [4.0, 6.0, 6.0], stop(patience=9), True, epochs=4, original=5.0, **settings)
    assert resumed.epoch == 4


def test_the_original_is_given_or_measured(small_config):
    assert run(small_config, [4.0, 4.0, 4.0], stop(original=4.5), original=3.0).epoch == 2
    with pytest.raises(ValueError, match='the evaluation has no original/score to compare with: set original=VALUE'):
        run(small_config, [4.0], stop())


@pytest.mark.parametrize(
    ('settings', 'message'),
    [(dict(patience=0), 'patience=0'), (dict(margin=-1.0), 'margin=-1.0'), (dict(rule='up'), "rule='up' of StopWhenWorse")],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        StopWhenWorseHook('score', **settings)


def test_a_collapse_ends_the_run_although_the_measure_rises_and_is_never_the_best(small_config):
    scores, ranks = [5.5, 6.0, 7.0, 8.0, 9.0], [9.0, 8.0, 6.0, 3.0, 1.0]
    keep = dict(type='KeepBestHook', measure='score', least_rank=0.7)
    runner = run(small_config, scores, stop(least_rank=0.7), original=5.0, ranks=ranks, best=keep)
    assert runner.epoch == 4
    assert 'in 2 consecutive evaluations, the rank fell from 10.0 to 3.0: the features collapse' in reason_of(runner)
    assert 'The best of the run is better than the original (6)' in reason_of(runner)
    assert run(small_config, scores, stop(), original=5.0, ranks=ranks).epoch == 5
