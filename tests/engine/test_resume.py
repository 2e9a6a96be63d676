"""A run that stopped anywhere and went on equals one that never stopped, to the last bit."""

from __future__ import annotations

import os
import re
import signal
import zipfile
from pathlib import Path

import pytest
import torch
from comparisons import assert_same_state
from mmengine.hooks import Hook

from mmadclr.checkpoint import read_checkpoint
from mmadclr.checkpoint.run_state import plain_history
from mmadclr.checkpoint.scalar_history import BoundedHistory
from mmadclr.checkpoint.snapshots import find_placeholders
from mmadclr.engine import Runner
from mmadclr.reliability.stop_signals import PREEMPTED, PreemptedError

EVERY_ITERATION = {
    'default_hooks.checkpoint.by_epoch': False,
    'default_hooks.checkpoint.interval': 1,
    'model.backbone.drop_path_rate': 0.3,  # so that torch's random state matters too
    'train_cfg.max_epochs': 2,
}


def losses(runner) -> list[float]:
    return list(runner.message_hub.get_scalar('train/loss').data[0])


def history(runner) -> dict[str, dict]:
    """All scalars that do not depend on the clock, as a checkpoint holds them."""
    scalars = plain_history(runner.message_hub.state_dict())['log_scalars']
    return {name: state for name, state in scalars.items() if not re.search('time|images_per_s', name)}


def assert_same_history(got: dict[str, dict], want: dict[str, dict]) -> None:
    assert got.keys() == want.keys()
    for name, state in want.items():
        for part, value in state.items():
            same = torch.equal if isinstance(value, torch.Tensor) else lambda x, y: x == y
            assert same(got[name][part], value), (name, part)


def assert_same_run(got, want) -> None:
    assert_same_state(want.model.state_dict(), got.model.state_dict())
    assert losses(got) == losses(want)
    assert_same_history(history(got), history(want))
    moments = [runner.optim_wrapper.state_dict()['state'] for runner in (want, got)]
    for key, state in moments[0].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(moments[1][key][name])), (key, name)


@pytest.mark.parametrize('workers', [0, 2])
def test_going_on_after_any_iteration_equals_not_stopping(train, workers):
    settings = EVERY_ITERATION | {'train_dataloader.num_workers': workers}
    whole = train(settings, work_dir='whole')
    found = sorted(path.name for path in Path(whole.work_dir).glob('*.pth'))
    assert found == ['epoch_2.pth', *(f'iter_{n}.pth' for n in range(1, 7))]
    for number in (1, 3, 5) if workers == 0 else (2,):
        resume = {'resume': True, 'load_from': f'{whole.work_dir}/iter_{number}.pth'}
        assert_same_run(train(settings | resume, work_dir=f'resumed{number}'), whole)


def test_a_history_longer_than_what_is_kept_goes_on_as_it_was(train, monkeypatch):
    """2 or 3 entries are kept, and of 6 the others are in stretches: also those of the collapse monitor, which goes on."""
    monkeypatch.setattr(BoundedHistory, 'keep', 2)
    monkeypatch.setattr(BoundedHistory, 'points', 2)
    whole = train(EVERY_ITERATION, work_dir='whole')
    scalar = whole.message_hub.get_scalar('train/loss')
    assert (scalar.number, len(scalar.data[0]), scalar.stretch) == (6, 3, 4)
    assert whole.message_hub.get_scalar('monitor/cls_kl').number == 6
    for number in (1, 3, 4, 5):
        resume = {'resume': True, 'load_from': f'{whole.work_dir}/iter_{number}.pth'}
        assert_same_run(train(EVERY_ITERATION | resume, work_dir=f'resumed{number}'), whole)


def test_a_checkpoint_with_the_history_of_before_is_resumed(train, tmp_path):
    """Until it was bounded, pairs of tensors: all values and counts of a scalar."""
    whole = train(EVERY_ITERATION, work_dir='whole')
    content = read_checkpoint(f'{whole.work_dir}/iter_4.pth')
    scalars = content['message_hub']['log_scalars']
    scalars |= {name: [state['values'], state['counts']] for name, state in scalars.items()}
    torch.save(content, tmp_path / 'old.pth')
    resumed = train(EVERY_ITERATION | {'resume': True, 'load_from': str(tmp_path / 'old.pth')}, work_dir='resumed')
    for runner in (whole, resumed):
        for scalar in runner.message_hub.log_scalars.values():
            scalar._is_integer = False  # the old layout does not tell integers from floats
    assert_same_run(resumed, whole)


def test_workers_that_are_kept_draw_no_number_of_the_training(train):
    """A run that goes on at the start of an epoch starts its workers there; the one left alone did so before."""
    settings = {
        'train_cfg.max_epochs': 2,
        'model.backbone.drop_path_rate': 0.3,
        'train_dataloader.num_workers': 1,
        'train_dataloader.persistent_workers': True,
    }
    whole = train(settings, work_dir='whole')
    resumed = train(settings | {'resume': True, 'load_from': f'{whole.work_dir}/epoch_1.pth'}, work_dir='resumed')
    assert_same_run(resumed, whole)


def test_accumulated_gradients_are_not_lost(train):
    """Of 6 iterations in steps of 4 and 2, one checkpoint falls due in the middle of each, and waits for its end."""
    settings = EVERY_ITERATION | {'optim_wrapper.accumulative_counts': 4}
    whole = train(settings, work_dir='whole')
    assert sorted(path.name for path in Path(whole.work_dir).glob('*.pth')) == ['epoch_2.pth', 'iter_1.pth', 'iter_5.pth']
    content = read_checkpoint(f'{whole.work_dir}/iter_1.pth')
    assert (content['meta']['iter'], content['position']['epoch'], content['position']['batch']) == (4, 1, 1)
    resume = {'resume': True, 'load_from': f'{whole.work_dir}/iter_1.pth'}
    assert_same_run(train(settings | resume, work_dir='resumed'), whole)


class Terminate(Hook):
    """Sends this process a signal in the middle of an iteration."""

    def __init__(self, iteration: int, name: str) -> None:
        self.iteration, self.name = iteration, name

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == self.iteration:
            signal.raise_signal(getattr(signal, self.name))


@pytest.mark.parametrize(('name', 'counts', 'stopped_after'), [('SIGTERM', 1, 2), ('SIGUSR1', 4, 4)])
def test_a_signal_ends_the_run_after_a_checkpoint(train, small_config, name, counts, stopped_after):
    handler = signal.getsignal(getattr(signal, name))
    settings = EVERY_ITERATION | {'default_hooks.checkpoint.interval': 100, 'optim_wrapper.accumulative_counts': counts}
    whole = train(settings, work_dir='whole')
    runner = Runner.from_cfg(small_config(settings, work_dir='stopped'))
    runner.register_hook(Terminate(1, name))
    with pytest.raises(PreemptedError) as stopped:
        runner.train()
    assert stopped.value.code == PREEMPTED == 85
    assert runner.iter + 1 == stopped_after
    assert signal.getsignal(getattr(signal, name)) == handler
    resumed = train(settings | {'resume': True}, work_dir='stopped')
    assert_same_run(resumed, whole)


class Fail(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        raise RuntimeError('something else')


def test_signals_mean_again_what_they_did_when_a_run_fails(small_config):
    handler = signal.getsignal(signal.SIGTERM)
    runner = Runner.from_cfg(small_config())
    runner.register_hook(Fail())
    with pytest.raises(RuntimeError, match='something else'):
        runner.train()
    assert signal.getsignal(signal.SIGTERM) == handler


def test_validation_that_was_missed_is_made_up_for(train):
    settings = EVERY_ITERATION | {'train_cfg.val_interval': 1, 'default_hooks.checkpoint.by_epoch': True}
    whole = train(settings, work_dir='whole')
    resumed = train(settings | {'resume': True, 'load_from': f'{whole.work_dir}/epoch_1.pth'}, work_dir='resumed')
    histories = [runner.message_hub.get_scalar('val/knn5_T0.07_top1').data[0].tolist() for runner in (whole, resumed)]
    assert len(histories[0]) == 2
    assert histories[0] == histories[1]


def test_another_batch_size_continues_at_the_same_place(train, caplog):
    whole = train(EVERY_ITERATION, work_dir='whole')
    resume = {'resume': True, 'load_from': f'{whole.work_dir}/iter_4.pth', 'train_dataloader.batch_size': 2}
    resumed = train(EVERY_ITERATION | resume, work_dir='resumed')
    assert resumed.iter == 12
    assert resumed.train_loop.max_iters == 12
    log = open(f'{resumed.log_dir}/{resumed.timestamp}.log').read()
    assert 'resumed: the next is batch 3 of epoch 2' in log  # 4 of 12 images were seen
    assert re.search('were 4, 3 and 1 when the checkpoint was saved, and are 2, 6 and 1 now. Preserved: weights', log)


# --- files ---------------------------------------------------------------------------------------------------------------


def flip_a_bit(path: Path) -> None:
    """In the middle of the largest record of a checkpoint; between records, there is padding that nobody reads."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + largest.file_size // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_newest_checkpoint_is_passed_over(train):
    whole = train(EVERY_ITERATION, work_dir='whole')
    folder = Path(whole.work_dir)
    newest = folder / 'epoch_2.pth'
    flip_a_bit(newest)
    (folder / 'iter_6.pth').write_bytes((folder / 'iter_6.pth').read_bytes()[:5000])
    for number, path in enumerate([folder / f'iter_{n}.pth' for n in range(1, 7)] + [newest]):
        os.utime(path, ns=(number * 10**9, number * 10**9))
    resumed = train(EVERY_ITERATION | {'resume': True}, work_dir='whole')
    log = open(f'{resumed.log_dir}/{resumed.timestamp}.log').read()
    assert re.search(r'epoch_2\.pth is damaged \(wrong checksum of .*: using the previous checkpoint', log)
    assert re.search(r'iter_6\.pth is damaged \(File is not a zip file\): using the previous checkpoint', log)
    assert 'resumed: the next is batch 3 of epoch 2' in log
    assert_same_run(resumed, whole)


def test_a_damaged_checkpoint_that_was_asked_for_is_refused(train):
    whole = train({'train_cfg.max_epochs': 1}, work_dir='whole')
    path = Path(whole.work_dir, 'epoch_1.pth')
    flip_a_bit(path)
    with pytest.raises(
        ValueError, match=r'epoch_1\.pth is damaged \(wrong checksum of .*\): resume from the previous checkpoint'
    ):
        train({'resume': True, 'load_from': str(path)}, work_dir='other')


def test_only_the_newest_checkpoints_and_milestones_are_kept(train):
    settings = {
        'train_cfg.max_epochs': 5,
        'train_cfg.val_interval': 9,
        'default_hooks.checkpoint.interval': 1,
        'default_hooks.checkpoint.max_keep_ckpts': 1,
        'default_hooks.checkpoint.milestones': 2,
    }
    runner = train(settings)
    assert sorted(path.name for path in Path(runner.work_dir).glob('*.pth')) == ['epoch_2.pth', 'epoch_4.pth', 'epoch_5.pth']
    assert Path(runner.work_dir, 'last_checkpoint').read_text() == f'{runner.work_dir}/epoch_5.pth'


def test_resuming_without_a_checkpoint_starts_anew(train):
    runner = train({'resume': True, 'train_cfg.max_epochs': 1}, work_dir='fresh')
    assert 'yet, starting from scratch' in open(f'{runner.log_dir}/{runner.timestamp}.log').read()


def test_files_that_are_no_checkpoints_of_a_run_are_refused(train, tmp_path):
    whole = train({'train_cfg.max_epochs': 1}, work_dir='whole')
    content = read_checkpoint(f'{whole.work_dir}/epoch_1.pth')
    torch.save({'state_dict': content['state_dict']}, tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match='weights.pth has no message_hub, meta, optimizer: it is not a checkpoint of a run'):
        train({'resume': True, 'load_from': str(tmp_path / 'weights.pth')}, work_dir='other')
    assert not list(find_placeholders(content))
    content['optimizer']['state'][0]['step'] = Path('x')
    torch.save(content, tmp_path / 'objects.pth')
    with pytest.raises(
        ValueError, match=r'optimizer\.state\.0\.step are pickled objects, which are not loaded from checkpoints'
    ):
        train({'resume': True, 'load_from': str(tmp_path / 'objects.pth')}, work_dir='other')
