"""Runs that are killed, asked to stop, started twice, or out of disk space: nothing is lost, and they go on exactly."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
import torch
from injection import WORKERS, Training

from mmadclr.checkpoint import read_checkpoint
from mmadclr.checkpoint.run_files import checkpoints, find_damage
from mmadclr.reliability.stop_signals import PREEMPTED

pytestmark = pytest.mark.slow

EPOCHS = 40  # of 4 iterations: long enough for three kills on a machine five times as fast
OFTEN = [
    f'train_cfg.max_epochs={EPOCHS}',
    'default_hooks.checkpoint.by_epoch=False',
    'default_hooks.checkpoint.interval=3',
    'model.backbone.drop_path_rate=0.3',
]
ACCUMULATED = ['optim_wrapper.accumulative_counts=2']
NO_CHECKPOINTS = ['default_hooks.checkpoint.interval=1000', 'default_hooks.checkpoint.by_epoch=False']


def final(run: Training) -> dict:
    return read_checkpoint(run.work_dir / f'epoch_{EPOCHS}.pth')


def losses(run: Training) -> dict[int, set]:
    """All values that were logged for each iteration, by all starts."""
    values: dict[int, set] = {}
    for line in run.records():
        if 'loss' in line:
            values.setdefault(line['step'], set()).add((line['loss'], line['lr']))
    return values


def assert_same_end(got: Training, want: Training) -> None:
    ours, theirs = final(got), final(want)
    for name, tensor in theirs['state_dict'].items():
        assert torch.equal(ours['state_dict'][name], tensor), name
    for key, moments in theirs['optimizer']['state'].items():
        assert all(torch.equal(ours['optimizer']['state'][key][name], value) for name, value in moments.items())


def once(training, *options: str, **kwargs) -> Training:
    run = training(*options, forked=True, **kwargs)
    assert run.wait(240) == 0, run.output()[-3000:]
    return run


@pytest.mark.parametrize(
    ('processes', 'options', 'seed'),
    [(1, [], 0), (1, [*WORKERS, *ACCUMULATED], 1), (2, ACCUMULATED, 2), (2, WORKERS, 3)],
    ids=['1', '1-workers-accumulated', '2-accumulated', '2-workers'],
)
def test_killed_at_random_moments_and_resumed_equals_left_alone(training, record_fault, processes, options, seed):
    window = ['log_processor.window_size=1', *OFTEN, *options]
    whole = once(training, *window, processes=processes, work_dir='whole')
    moments = random.Random(seed)
    killed_at = []
    for _ in range(3):
        run = training(*window, processes=processes, work_dir='killed', arguments=('--resume',), forked=True)
        begun = run.iteration()
        run.wait_for_iteration(begun + 1, timeout=120)
        time.sleep(moments.uniform(0, 0.4))
        run.kill()
        killed_at.append(run.iteration())
        assert not [path for path in checkpoints(run.work_dir) if find_damage(path)]
    last = once(training, *window, processes=processes, work_dir='killed', arguments=('--resume',))
    assert_same_end(last, whole)
    assert losses(last) == losses(whole)  # also of iterations that were done twice
    record_fault(
        'all processes killed (SIGKILL) at a random moment',
        f'{processes} process(es), {"2 workers" if WORKERS[0] in options else "no workers"}, '
        f'{"accumulated, " if ACCUMULATED[0] in options else ""}after iterations {", ".join(map(str, killed_at))}',
        'resumed with --resume: losses, weights, moments, centers and teacher equal to the bit',
        times=3,
    )


@pytest.mark.parametrize('processes', [1, 2])
def test_one_process_of_several_is_killed(training, record_fault, processes):
    run = training(*OFTEN, 'train_cfg.max_epochs=400', processes=processes, work_dir='killed')
    run.wait_for_iteration(5, timeout=120)
    began = time.monotonic()
    os.kill(run.ranks()[-1], signal.SIGKILL)
    assert run.wait(90) != 0
    seconds = time.monotonic() - began
    newest = checkpoints(run.work_dir)[0]
    assert find_damage(newest) is None
    resumed = training(*OFTEN, 'train_cfg.max_epochs=400', processes=processes, work_dir='killed', arguments=('--resume',))
    resumed.wait_for_iteration(read_checkpoint(newest)['meta']['iter'] + 1, timeout=120)
    record_fault(
        'one process killed', f'SIGKILL to the last of {processes}', f'all ended after {seconds:.0f} s; --resume went on'
    )


@pytest.mark.parametrize(
    ('name', 'processes'), [('SIGTERM', 1), ('SIGUSR1', 1), ('SIGUSR1', 2), ('SIGTERM', 2)], ids=lambda value: str(value)
)
def test_asked_to_stop(training, record_fault, name, processes):
    window = ['log_processor.window_size=1', *OFTEN, *NO_CHECKPOINTS]
    whole = once(training, *window, processes=processes, work_dir='whole')
    run = training(*window, processes=processes, work_dir='stopped')
    run.wait_for_iteration(10, timeout=120)
    # One rank alone, as a batch system may do it: all have to stop at the same iteration.
    os.kill(run.ranks()[-1], getattr(signal, name))
    status = run.wait(60)
    assert status == (PREEMPTED if processes == 1 else 1), run.output()[-3000:]  # torchrun has a status of its own
    assert re.search(r'stopped after iteration \d+; checkpoint saved, resume with --resume', run.output())
    assert len(checkpoints(run.work_dir)) == 1
    resumed = once(training, *window, processes=processes, work_dir='stopped', arguments=('--resume',))
    assert_same_end(resumed, whole)
    assert losses(resumed) == losses(whole)
    record_fault(
        f'asked to stop ({name})',
        f'the signal to one of {processes} process(es)',
        f'a checkpoint at the next step, exit status {PREEMPTED}'
        + (' of every process (1 of torchrun)' if processes > 1 else '')
        + '; resumed: equal to the bit',
    )


def test_a_second_start_is_refused_while_the_first_lives(training, record_fault):
    first = training('train_cfg.max_epochs=400', work_dir='shared')
    first.wait_for_iteration(3, timeout=120)
    second = training('train_cfg.max_epochs=400', work_dir='shared', arguments=('--resume',))
    assert second.wait(60) == 1
    assert re.search(r'error: .*shared is in use by another run \(process \d+ on .*\): wait until it ends', second.output())
    assert first.process.poll() is None
    first.kill()
    third = training('train_cfg.max_epochs=400', work_dir='shared', arguments=('--resume',))
    third.wait_for_iteration(first.iteration() + 1, timeout=120)
    record_fault(
        'second start in the same work dir', 'while the first lived', 'refused with one line; allowed after its death'
    )


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 12 MB: room for a few checkpoints of 2.5 MB."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=12m', 'tmpfs', folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f'a small disk needs the right to mount one: {mounted.stderr.strip()}')
    yield folder
    subprocess.run(['umount', '--lazy', folder], check=True)


def test_a_full_disk_costs_no_good_checkpoint(training, small_disk, record_fault):
    options = ['train_cfg.max_epochs=4000', *OFTEN[1:], 'default_hooks.checkpoint.interval=40']
    run = training(*options, work_dir='disk/work')
    run.wait_until(lambda: bool(checkpoints(run.work_dir)), timeout=120)
    good = checkpoints(run.work_dir)[0]
    # All but room for logs.
    free = shutil.disk_usage(small_disk).free
    (small_disk / 'filler').write_bytes(b'\0' * (free - 2**20))
    run.wait_until(lambda: 'could not be written' in run.output(), timeout=60)
    assert 'training continues, and earlier checkpoints are kept' in run.output()
    kept = checkpoints(run.work_dir)
    assert kept
    assert all(find_damage(path) is None for path in kept)
    assert not list(run.work_dir.glob('.*tmp*.pth'))
    (small_disk / 'filler').unlink()
    before = len(kept)
    run.wait_until(lambda: checkpoints(run.work_dir)[0] not in kept, timeout=60)
    record_fault(
        'disk full',
        'a file system of 12 MB, filled',
        f'training went on; {before} older checkpoint(s) whole, beginning with '
        f'{good.name}; the next was written when there was room',
    )


def test_truncated_and_corrupt_checkpoints_are_passed_over(training, record_fault):
    window = ['log_processor.window_size=1', *OFTEN, 'default_hooks.checkpoint.max_keep_ckpts=-1']
    whole = once(training, *window, work_dir='whole')
    newest, second = checkpoints(whole.work_dir)[:2]
    content = newest.read_bytes()
    stamps = [(path, path.stat().st_mtime_ns) for path in (newest, second)]
    newest.write_bytes(content[: len(content) // 2])
    with zipfile.ZipFile(second) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
    flipped = bytearray(second.read_bytes())
    flipped[largest.header_offset + largest.file_size // 2] ^= 4
    second.write_bytes(flipped)
    for path, stamp in stamps:
        os.utime(path, ns=(stamp, stamp))
    resumed = once(training, *window, work_dir='whole', arguments=('--resume',))
    for path in (newest, second):
        assert re.search(rf'{path.name} is damaged \(.*\): using the previous checkpoint', resumed.output())
    record_fault(
        'newest checkpoint truncated, the one before with a flipped bit', 'on disk', 'both named in one line; the third used'
    )


def test_a_pickle_in_a_checkpoint_is_not_run(training, record_fault, tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / 'ran',)

    run = once(training, 'train_cfg.max_epochs=1')
    path = checkpoints(run.work_dir)[0]
    content = torch.load(path, weights_only=False)
    content['meta']['evil'] = Evil()
    torch.save(content, path)
    again = training('train_cfg.max_epochs=2', arguments=('--resume',))
    assert again.wait(120) == 0
    assert not (tmp_path / 'ran').exists()
    record_fault('code in a checkpoint', 'a pickled object whose loading touches a file', 'not run; the run went on')
