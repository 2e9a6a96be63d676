"""The best checkpoint of a run by a measure, also over interruptions."""

import math
from pathlib import Path

import pytest
import torch
from scripted_scores import run_scripted

from mmadclr.checkpoint import read_checkpoint
from mmadclr.checkpoint.run_files import checkpoints
from mmadclr.engine import Runner
from mmadclr.engine.hooks.best_hook import KeepBestHook, sign_of

KEEP = dict(type='KeepBestHook', measure='score')
FILE = 'best_score.pth'


def run(small_config, scores, best=KEEP, **kwargs):
    return run_scripted(small_config, scores, best=best, **kwargs)


def best_of(runner):
    return read_checkpoint(Path(runner.work_dir) / FILE)


def log_of(runner):
    return Path(runner.log_dir, f'{runner.timestamp}.log').read_text()


@pytest.mark.parametrize(
    ('scores', 'rule', 'epoch'),
    [([1.0, 3.0, 2.0], None, 2), ([1.0, 3.0, 2.0], 'less', 1), ([math.nan, 1.0, 1.0], None, 2)],
)
def test_the_best_is_kept_and_is_the_state_at_its_evaluation(small_config, scores, rule, epoch):
    runner = run(small_config, scores, best=dict(KEEP, rule=rule))
    best, same = best_of(runner), read_checkpoint(Path(runner.work_dir) / f'epoch_{epoch}.pth')
    assert best['meta']['iter'] == 3 * epoch
    assert best['message_hub']['runtime_info']['best_score'] == {'score': scores[epoch - 1], 'iteration': 3 * epoch}
    assert all(torch.equal(best['state_dict'][name], value) for name, value in same['state_dict'].items())
    assert {path.name for path in checkpoints(runner.work_dir)} == {f'epoch_{n}.pth' for n in (1, 2, 3)}
    assert Path(runner.work_dir, 'last_checkpoint').read_text().endswith('epoch_3.pth')
    assert not list(Path(runner.work_dir).glob('.*tmp*'))


def test_the_best_can_be_resumed(small_config):
    runner = run(small_config, [1.0, 3.0, 2.0])
    cfg = runner.cfg.copy()
    cfg.load_from, cfg.resume = str(Path(runner.work_dir) / FILE), True
    cfg.experiment_name += '_again'
    again = Runner.from_cfg(cfg)
    again.load_or_resume()
    assert (again.iter, again.epoch) == (6, 2)


def test_a_resumed_run_replaces_the_best_only_by_a_better_one(small_config):
    run(small_config, [1.0, 5.0])
    # The evaluation at the end of epoch 2 is repeated, since the checkpoint was saved before it.
    resumed = run(small_config, [4.0, 4.0, 3.0], resume=True, epochs=4)
    assert best_of(resumed)['meta']['iter'] == 6
    resumed = run(small_config, [4.0, 4.0, 5.5, 5.2], resume=True, epochs=7)
    assert best_of(resumed)['meta']['iter'] == 18


def test_a_run_resumed_from_before_the_best_keeps_it(small_config):
    first = run(small_config, [1.0, 2.0, 9.0])
    for epoch in (2, 3):
        Path(first.work_dir, f'epoch_{epoch}.pth').unlink()
    resumed = run(small_config, [1.0, 2.0, 8.0], resume=True, epochs=3)
    assert best_of(resumed)['message_hub']['runtime_info']['best_score'] == {'score': 9.0, 'iteration': 9}


def test_a_new_run_replaces_the_best_of_an_earlier_one(small_config):
    run(small_config, [9.0])
    again = run(small_config, [1.0, 2.0])
    assert best_of(again)['message_hub']['runtime_info']['best_score']['score'] == 2.0


@pytest.mark.parametrize(('harm', 'problem'), [('delete', 'does not exist'), ('damage', 'cannot be read')])
def test_a_best_that_is_lost_is_told_and_replaced(small_config, harm, problem):
    path = Path(run(small_config, [9.0, 1.0]).work_dir, FILE)
    path.unlink() if harm == 'delete' else path.write_bytes(b'no checkpoint')
    resumed = run(small_config, [3.0, 2.0, 2.0], resume=True, epochs=4)
    assert best_of(resumed)['message_hub']['runtime_info']['best_score']['score'] == 3.0
    assert f'{FILE} {problem}' in log_of(resumed)
    assert 'score was 9 at iteration 3) is lost' in log_of(resumed)


def test_a_full_disk_keeps_the_best_so_far_and_the_run_goes_on(small_config, monkeypatch):
    def full(content, path):
        if content['meta']['iter'] == 6:
            raise OSError(28, 'No space left on device')
        write(content, path)

    from mmadclr.engine.hooks import best_hook

    write = best_hook.write_synced
    monkeypatch.setattr(best_hook, 'write_synced', full)
    runner = run(small_config, [1.0, 5.0, 2.0])
    assert 'No space left on device); training continues with the best one so far' in log_of(runner)
    assert best_of(runner)['message_hub']['runtime_info']['best_score'] == {'score': 2.0, 'iteration': 9}  # 5 was lost


def test_a_measure_that_is_not_there_is_named(small_config):
    with pytest.raises(ValueError, match="measure='knn' of KeepBestHook is not among .* evaluation: choose one of score"):
        run(small_config, [1.0], best=dict(KEEP, measure='knn'))


def test_evaluation_outside_of_training_saves_nothing(tmp_path):
    hook = KeepBestHook('score')
    hook.after_val_epoch(None, {'other': 1.0})
    assert not list(tmp_path.iterdir())


def test_rules():
    assert [sign_of('KeepBestHook', name, None) for name in ('retrieval', 'alignment', 'knn20_T0.07_top1')] == [1, -1, 1]
    assert sign_of('KeepBestHook', 'retrieval', 'less') == -1
    assert KeepBestHook('val/knn top1').name == 'best_val_knn_top1.pth'
    with pytest.raises(ValueError, match="rule='bigger' of KeepBestHook: choose one of 'greater', 'less'"):
        KeepBestHook('score', rule='bigger')
