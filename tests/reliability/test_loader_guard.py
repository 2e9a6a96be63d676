"""Faults of loaders in plain words; batches handed on in order, with only their pixels moved."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from mmengine import runner as mmengine_runner
from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from mmadclr.cli.launch import report_bad_input
from mmadclr.engine import Runner
from mmadclr.reliability import loader_guard
from mmadclr.reliability.loader_guard import (
    DevicePrefetcher,
    WorkerDiedError,
    check_shared_memory,
    explained_worker_deaths,
    pixels,
    pixels_on,
)

WORKERS = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True}


class KillWorker(Hook):
    """Kills a worker of the loader as the system does when memory runs out."""

    def __init__(self, iteration: int, told_to_stop: bool = False) -> None:
        self.iteration, self.told_to_stop = iteration, told_to_stop

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.iter == self.iteration:
            if self.told_to_stop:
                signal.raise_signal(signal.SIGTERM)
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            time.sleep(30)  # until the signal handler raises


def run_until_killed(small_config, iteration, told_to_stop=False):
    runner = Runner.from_cfg(small_config(WORKERS))
    runner.register_hook(KillWorker(iteration, told_to_stop))
    try:
        runner.train()
    finally:
        for worker in multiprocessing.active_children():
            worker.kill()  # torch would wait for them


def test_killed_worker_names_cause_iteration_and_checkpoint(small_config):
    with pytest.raises(WorkerDiedError) as caught:
        run_until_killed(small_config, iteration=4)
    text = str(caught.value)
    assert text.startswith('DataLoader worker (pid ')
    assert 'at iteration 4: most likely the machine ran out of memory: lower num_workers' in text
    assert text.endswith('work/epoch_1.pth: resume from it with --resume')


@pytest.fixture
def loader_with_workers():
    """An iterator whose main process is not told by a signal when a worker ends."""
    batches = iter(DataLoader(range(100), 1, num_workers=2))
    next(batches)
    time.sleep(0.5)  # workers wait for work now: one killed with a lock leaves the main process waiting for ever
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield batches
    signal.signal(signal.SIGCHLD, handler)


def fetch_from_nobody(tmp_path):
    """What happens where a worker has ended while it hands a batch over."""
    multiprocessing.connection.Client(str(tmp_path / 'listener'))


def test_a_worker_killed_while_it_hands_a_batch_over_is_named(loader_with_workers, tmp_path):
    worker = loader_with_workers._workers[0]
    worker.kill()
    with (
        pytest.raises(WorkerDiedError, match=rf'^DataLoader worker \(pid {worker.pid}\) .*at iteration 7: most likely'),
        explained_worker_deaths(lambda: 7, tmp_path),
    ):
        fetch_from_nobody(tmp_path)
    worker.join()


def test_a_worker_whose_signal_comes_during_the_search_is_named(tmp_path, monkeypatch):
    batches = iter(DataLoader(range(100), 1, num_workers=1))
    next(batches)
    time.sleep(0.5)

    def extract(stack):
        batches._workers[0].kill()
        time.sleep(0.5)  # where torch's handler raises
        return frames(stack)

    frames = loader_guard.traceback.extract_tb
    monkeypatch.setattr(loader_guard.traceback, 'extract_tb', extract)
    handler = signal.getsignal(signal.SIGCHLD)
    with (
        pytest.raises(WorkerDiedError, match=r'^DataLoader worker .*killed by signal: Killed. at iteration 7'),
        explained_worker_deaths(lambda: 7, tmp_path),
    ):
        fetch_from_nobody(tmp_path)
    assert signal.getsignal(signal.SIGCHLD) is handler


class DiesHandingOver(Hook):
    """Kills a worker while it hands a batch over; at the end of training, torch tells of it to nobody."""

    def __init__(self, folder):
        self.folder = folder

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.iter == 2:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            worker = multiprocessing.active_children()[0]
            worker.kill()
            fetch_from_nobody(self.folder)

    def leave_training(self, runner) -> None:
        time.sleep(0.2)
        with contextlib.suppress(RuntimeError):
            loader_guard._error_if_any_worker_fails()


def test_a_death_is_explained_before_other_hooks_hear_of_it(small_config, tmp_path):
    handler = signal.getsignal(signal.SIGCHLD)
    runner = Runner.from_cfg(small_config(WORKERS))
    runner.register_hook(DiesHandingOver(tmp_path))
    try:
        with pytest.raises(WorkerDiedError, match='at iteration 2: most likely the machine ran out of memory'):
            runner.train()
    finally:
        signal.signal(signal.SIGCHLD, handler)
        for worker in multiprocessing.active_children():
            worker.kill()


def test_a_lost_connection_while_all_workers_live_stays_what_it_is(loader_with_workers, tmp_path, monkeypatch):
    monkeypatch.setattr(loader_guard, 'HANDING_OVER_S', 0.2)
    with pytest.raises(FileNotFoundError), explained_worker_deaths(lambda: 7, tmp_path):
        fetch_from_nobody(tmp_path)


def test_killed_worker_of_a_run_that_is_to_stop(small_config):
    with pytest.raises(WorkerDiedError, match=r'the run was asked to stop \(SIGTERM\)') as caught:
        run_until_killed(small_config, iteration=4, told_to_stop=True)
    assert 'memory' not in str(caught.value)


def test_killed_worker_before_the_first_checkpoint_ends_a_tool_in_one_line(small_config):
    with pytest.raises(SystemExit) as caught:
        report_bad_input(lambda: run_until_killed(small_config, iteration=1))()
    text = str(caught.value)
    assert text.startswith('error: DataLoader worker (pid ')
    assert 'There is no checkpoint in ' in text
    assert '\n' not in text


@pytest.mark.parametrize(
    ('message', 'explanation'),
    [
        (
            'DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ...',
            'out of shared memory: lower',
        ),
        ('DataLoader worker (pid(s) 7, 8) exited unexpectedly', 'num_workers=0 shows errors of the data set itself'),
        ('Pin memory thread exited unexpectedly', 'ran out of memory or of shared memory'),
        (
            'Caught RuntimeError in DataLoader worker process 0.\nTraceback ...\nRuntimeError: unable to allocate shared '
            'memory(shm) for file </torch_7>: No space left on device (28)',
            'No space left on device .* at iteration 5: out of shared memory: lower',
        ),
    ],
)
def test_other_deaths(tmp_path, message, explanation):
    with pytest.raises(WorkerDiedError, match=explanation), explained_worker_deaths(lambda: 5, tmp_path):
        raise RuntimeError(message)


@pytest.mark.parametrize('name', ['Terminated', 'Interrupt', 'Hangup', 'User defined signal 1'])
def test_a_signal_from_outside_is_not_blamed_on_memory(tmp_path, name):
    """As ``strsignal`` calls them, in torch's message."""
    with pytest.raises(WorkerDiedError) as caught, explained_worker_deaths(lambda: 5, tmp_path):
        raise RuntimeError(f'DataLoader worker (pid 7) is killed by signal: {name}. ')
    assert f'killed by signal: {name}. at iteration 5: it was killed from outside' in str(caught.value)
    assert 'memory' not in str(caught.value)


@pytest.mark.parametrize(
    'message',
    ['DataLoader worker (pid(s) 7) exited unexpectedly', 'DataLoader worker (pid 7) is killed by signal: Killed. '],
)
def test_a_run_that_was_told_to_stop_is_not_blamed_on_memory(tmp_path, message):
    with pytest.raises(WorkerDiedError) as caught, explained_worker_deaths(lambda: 5, tmp_path, lambda: 'SIGTERM'):
        raise RuntimeError(message)
    assert 'at iteration 5: the run was asked to stop (SIGTERM), and its worker was killed first' in str(caught.value)
    assert 'memory' not in str(caught.value)


def test_deaths_that_others_caught_are_found(tmp_path):
    """The signal handler may raise within code that turns any exception into one of its own."""
    death = RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. ')
    with pytest.raises(WorkerDiedError, match='by signal: Killed'), explained_worker_deaths(lambda: 5, tmp_path):
        raise SyntaxError('Failed to format the config file') from death


def test_a_death_that_names_the_signal_is_told_rather_than_one_that_does_not(tmp_path):
    """As torch raises them when the signal arrives while the main process waits for a batch."""
    death = RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. ')
    with pytest.raises(WorkerDiedError) as caught, explained_worker_deaths(lambda: 5, tmp_path):
        raise RuntimeError('DataLoader worker (pid(s) 7) exited unexpectedly') from death
    assert str(caught.value).startswith(
        'DataLoader worker (pid 7) is killed by signal: Killed. at iteration 5: most likely '
    )


def test_other_errors_pass(tmp_path):
    error = RuntimeError('CUDA out of memory')
    with pytest.raises(RuntimeError) as caught, explained_worker_deaths(lambda: 5, tmp_path):
        raise error
    assert caught.value is error


def test_shared_memory_too_small(small_config, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=2**16))
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '4')
    with pytest.raises(ValueError) as caught:
        Runner.from_cfg(small_config(WORKERS | {'train_dataloader.prefetch_factor': 3})).train()
    text = str(caught.value)
    assert '2 workers x 4 batches of 0.0 MiB x 4 processes need 1.0 MiB ' in text
    assert '/dev/shm has 0.1 MiB free: lower train_dataloader.num_workers, batch_size or prefetch_factor' in text
    assert '--shm-size' in text


@pytest.mark.parametrize(('free', 'fits'), [(2 * 4 * 5 * 70, True), (2 * 4 * 5 * 70 - 1, False)])
def test_shared_memory_is_compared_with_all_batches_at_a_time(monkeypatch, free, fits):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=free))
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '5')
    loader = DataLoader(Crops(10), batch_size=7, num_workers=2, prefetch_factor=3)
    if fits:
        check_shared_memory(loader)
    else:
        with pytest.raises(ValueError, match='5 processes need'):
            check_shared_memory(loader)
    check_shared_memory(DataLoader(Crops(10), batch_size=7))  # no worker, no shared memory


def test_shared_memory_of_batches_of_unknown_size(monkeypatch):
    """A batch sampler need not say how many images a batch has; those of torch and mmdet do."""
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=0))
    check_shared_memory(DataLoader(Crops(10), batch_sampler=[[0, 1], [2]], num_workers=2))


class Crops(torch.utils.data.Dataset):
    """Numbered images; a batch is said to take 10 bytes an image."""

    transform = SimpleNamespace(batch_bytes=lambda batch_size: 10 * batch_size)

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        image = torch.full((3, 64, 64), index, dtype=torch.uint8)
        return {'global_views': image, 'images': image + 100, 'global_photometric': torch.tensor([index]), 'index': index}


def test_loader_of_a_run_is_wrapped_and_stays_a_loader_to_everyone_else(train):
    runner = train({'train_cfg.max_epochs': 1})
    loader = runner.train_dataloader
    assert isinstance(loader, DevicePrefetcher)
    assert len(loader) == 3
    for name in ('dataset', 'sampler', 'batch_sampler', 'num_workers', 'collate_fn'):
        assert getattr(loader, name) is getattr(loader.loader, name)
    with pytest.raises(AttributeError, match='no_such_thing'):
        _ = loader.no_such_thing


def test_shard_sampler_learns_the_batch(monkeypatch):
    built = []
    loader = SimpleNamespace(dataset=None, sampler=None)
    monkeypatch.setattr(mmengine_runner.Runner, 'build_dataloader', lambda cfg, **_: built.append(cfg) or loader)
    for sampler in (dict(type='ShardSampler'), dict(type='ShardSampler', batch_size=2), dict(type='EpochSampler')):
        Runner.build_dataloader(dict(batch_size=6, num_workers=1, dataset=None, sampler=sampler))
    assert [cfg['sampler'].get('batch_size') for cfg in built] == [6, 2, None]


def test_batches_pass_on_a_cpu():
    loader = DataLoader(Crops(6), batch_size=2)
    prefetcher = DevicePrefetcher(loader, 'cpu')
    assert [batch['index'].tolist() for batch in prefetcher] == [[0, 1], [2, 3], [4, 5]]
    assert [batch['index'].tolist() for batch in prefetcher] == [[0, 1], [2, 3], [4, 5]]


def test_only_pixels_move():
    batch = next(iter(DataLoader(Crops(2), batch_size=2))) | {'unreadable': ['a.jpg'], 'query_views': torch.ones(2, 3)}
    batch |= {'packed_pixels': torch.ones(9), 'packed_sizes': torch.ones(1, 2), 'packed_files': torch.ones(4)}
    moved = pixels_on('meta', batch)
    assert {name for name, value in moved.items() if getattr(value, 'is_meta', False)} == set(pixels(batch))
    assert set(pixels(batch)) == {'global_views', 'images', 'packed_pixels', 'query_views'}
    assert moved['global_photometric'] is batch['global_photometric']
    assert moved['unreadable'] is batch['unreadable']


@pytest.mark.gpu
def test_pixels_arrive_while_the_gpu_is_busy():
    """Right values although copy and use are on two streams and memory is reused."""
    loader = DataLoader(Crops(32), batch_size=2, pin_memory=True)
    work = torch.randn(2048, 2048, device='cuda')
    sums = []
    for batch in DevicePrefetcher(loader, 'cuda'):
        assert batch['global_views'].is_cuda
        assert not batch['global_photometric'].is_cuda
        for _ in range(20):
            work = (work @ work).clamp(-1, 1)
        sums.append(batch['global_views'].flatten(1).float().mean(1))
    assert torch.cat(sums).tolist() == list(range(32))


@pytest.mark.parametrize(
    ('cores', 'quota', 'processes', 'expected'),
    [
        (8, None, 1, 8),
        (8, 'max 100000', 2, 4),
        (8, '250000 100000', 1, 2),
        (8, '50000 100000', 1, 1),
        (8, '1600000 100000', 1, 8),
        (8, None, 16, 1),
        (192, None, 8, 16),
    ],
)
def test_workers_follow_the_cores_of_the_process(monkeypatch, tmp_path, cores, quota, processes, expected):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(cores)))
    monkeypatch.setattr(os, 'cpu_count', lambda: 1000)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(processes))
    monkeypatch.setattr(loader_guard, 'CPU_MAX', tmp_path / 'cpu.max')
    if quota:
        (tmp_path / 'cpu.max').write_text(quota + '\n')
    assert loader_guard.default_workers() == expected
