"""Runs that are asked to stop in every way that people and batch systems have: a whole checkpoint, and no process left."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
from forking import fork
from injection import CONFIG, Training, children, is_alive
from mmengine.config import Config
from places import REPO
from reliability import REPORT

from mmadclr.checkpoint import read_checkpoint
from mmadclr.checkpoint.run_files import checkpoints, find_damage
from mmadclr.reliability.stop_signals import PREEMPTED, REPEAT_S

pytestmark = pytest.mark.slow

GRACE_S = 30  # of torchrun, before it kills
LONG = [
    'train_cfg.max_epochs=4000',
    'default_hooks.checkpoint.interval=100000',
    'default_hooks.checkpoint.by_epoch=False',
]
# Not persistent: with 4 iterations an epoch, workers are just being started in much of the time.
WORKERS = ['train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=False']
TRIES = 10 if REPORT else 2
SIGNALS = ['SIGTERM', 'SIGINT', 'SIGUSR1']
SIZES = [(processes, workers) for processes in (1, 2) for workers in (0, 2)]


def started(signals: list[str]) -> list[tuple[str, int, int]]:
    """Signals, processes and workers of tests in which every run takes long to start.

    All for a report; else the half of them in which each signal meets each number, and each number of processes each of
    workers.
    """
    cases = [(index, *size) for index in range(len(signals)) for size in SIZES]
    half = [case for case in cases if (case[0] + case[1] + case[2] // 2) % 2]
    return [(signals[index], *size) for index, *size in (cases if REPORT else half)]


def everyone(run: Training) -> list[int]:
    """Process ids of all trainings and of their workers."""
    ranks = run.ranks()
    return [*ranks, *(child for rank in ranks for child in children(rank))]


def to_process(run: Training, number: int) -> None:
    os.kill(run.ranks()[-1], number)


def to_group(run: Training, number: int) -> None:
    """To a training and its workers; under torchrun, each training has a group of its own."""
    os.killpg(os.getpgid(run.ranks()[-1]), number)


def to_launcher(run: Training, number: int) -> None:
    """To torchrun, which passes it on to the groups of all trainings; or to ``timeout``."""
    os.kill(run.process.pid, number)


def stop(run: Training, send, number: int, status: int, delay: float = 0.0) -> float:
    """Sends a signal once training is under way, and looks at what is left; returns the seconds to the end."""
    run.wait_for_iteration(3)
    time.sleep(delay)
    alive, began = everyone(run), time.monotonic()
    send(run, number)
    ended = run.wait(2 * GRACE_S)
    wait_for_death(alive, GRACE_S)
    seconds, output = time.monotonic() - began, run.output()
    assert ended == status, output[-3000:]
    assert seconds < GRACE_S
    assert 'memory' not in output
    stopped = re.search(r'after iteration (\d+);? (?:checkpoint )?saved, resume with --resume', output)
    assert stopped, output[-3000:]
    (checkpoint,) = checkpoints(run.work_dir)
    assert find_damage(checkpoint) is None
    assert read_checkpoint(checkpoint)['meta']['iter'] == int(stopped[1])
    return seconds


def loader(workers: int) -> list[str]:
    return WORKERS if workers else []


def whole(seconds: float) -> int:
    return max(1, round(seconds))


def status_of(processes: int) -> int:
    return PREEMPTED if processes == 1 else 1  # torchrun has a status of its own


@pytest.mark.parametrize(('processes', 'workers'), SIZES)
@pytest.mark.parametrize('name', SIGNALS)
def test_signal_to_one_process(tmp_path, name, processes, workers):
    """The main process alone; under torchrun, and that a resumed run is the same to the bit, is in ``test_kills.py``."""
    run = fork(tmp_path, *LONG, *loader(workers), processes=processes)
    try:
        stop(run, to_process, getattr(signal, name), PREEMPTED)
    finally:
        run.kill()


@pytest.mark.parametrize('name', SIGNALS)
def test_signal_to_the_program_that_has_started_several(training, name):
    run = training(*LONG, processes=2, program=True)
    stop(run, to_launcher, getattr(signal, name), status_of(2))
    assert len(run.seen) == 2


@pytest.mark.parametrize(('processes', 'workers'), SIZES)
@pytest.mark.parametrize('name', SIGNALS)
def test_signal_to_the_group_at_random_moments(tmp_path, record_fault, name, processes, workers):
    moments, seconds = random.Random(name), []
    for number in range(TRIES):
        run = fork(tmp_path, *LONG, *loader(workers), processes=processes, work_dir=f'try{number}')
        try:
            seconds.append(stop(run, to_group, getattr(signal, name), PREEMPTED, moments.uniform(0, 0.5)))
        finally:
            run.kill()
    record_fault(
        f'asked to stop ({name})',
        f'the signal to the group of one of {processes} process(es), with {workers} loader workers each, at random moments',
        f'a whole checkpoint, exit status {PREEMPTED} of every process, no process left; {whole(max(seconds))} s at most',
        times=TRIES,
    )


@pytest.mark.parametrize(('name', 'processes', 'workers'), started(SIGNALS))
def test_signal_to_a_group_under_torchrun_and_to_torchrun(training, record_fault, name, processes, workers):
    """Torchrun passes a signal on to the groups of its processes, and kills after 30 s."""
    for send in (to_group, to_launcher):
        options, work_dir = [*LONG, *loader(workers)], send.__name__
        run = training(*options, processes=processes, torchrun=True, work_dir=work_dir)
        seconds = stop(run, send, getattr(signal, name), 1)
    record_fault(
        f'asked to stop ({name})',
        f'the signal to torchrun of {processes} process(es), with {workers} loader workers each',
        f'a whole checkpoint, no process left; after {whole(seconds)} s',
    )


@pytest.mark.parametrize(('name', 'processes', 'workers'), started(['SIGTERM', 'SIGINT']))
def test_time_is_up(training, record_fault, name, processes, workers):
    """``timeout`` sends its signal twice, to what it started and to the whole group; SIGALRM tells it that time is up."""
    prefix = ('timeout', '--preserve-status', '--signal', name, '3600')
    run = training(*LONG, *loader(workers), processes=processes, prefix=prefix)
    seconds = stop(run, to_launcher, signal.SIGALRM, status_of(processes))
    record_fault(
        f'asked to stop ({name})',
        f'under `timeout`, whose time is up, {processes} process(es) with {workers} loader workers each',
        f'a whole checkpoint, no process left; after {whole(seconds)} s',
    )


@pytest.mark.parametrize('name', ['SIGUSR1', 'SIGKILL'])
def test_torchrun_ends_without_passing_the_signal_on(training, record_fault, monkeypatch, name):
    """As that of older torch does with SIGUSR1: its processes stop, too, instead of training on with no one above them."""
    monkeypatch.setenv('PET_SIGNALS_TO_HANDLE', 'SIGTERM')
    run = training(*LONG, *WORKERS, processes=2)
    stop(run, to_launcher, getattr(signal, name), -getattr(signal, name))
    record_fault(
        f'torchrun ended ({name})', 'the signal to torchrun, which did not pass it on', 'a whole checkpoint, no process left'
    )


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """Writes the demo's config with a hook of :mod:`slow_parts`."""
    monkeypatch.setenv('PYTHONPATH', str(Path(__file__).parent))

    def write(**hook) -> Path:
        cfg = Config.fromfile(REPO / CONFIG)
        cfg.custom_imports = dict(imports=['slow_parts'], allow_failed_imports=False)
        cfg.custom_hooks = [hook]
        cfg.dump(tmp_path / 'slow.py')
        return tmp_path / 'slow.py'

    return write


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT'])
def test_a_second_signal_ends_a_run_at_once(training, record_fault, slow, name):
    run = training(*LONG, *WORKERS, config=slow(type='slow_parts.SlowStep', iteration=6))
    run.wait_until(lambda: 'a step that does not end' in run.output())
    alive, number = everyone(run), getattr(signal, name)
    to_group(run, number)
    run.wait_until(lambda: 'send it again to exit immediately' in run.output(), timeout=10)
    time.sleep(2 * REPEAT_S)
    assert run.process.poll() is None
    to_group(run, number)
    assert run.wait(10) == -number
    wait_for_death(alive)
    record_fault(f'asked to stop twice ({name})', 'the group, in a step that does not end', 'ended at the second signal')


@pytest.mark.parametrize(
    ('processes', 'send', 'name'),
    [(1, to_group, 'SIGINT'), (2, to_launcher, 'SIGTERM'), (2, to_process, 'SIGUSR1')],
    ids=['1-group', '2-torchrun', '2-process'],
)
def test_a_validation_is_left(training, record_fault, slow, processes, send, name):
    """With two processes, that which writes checkpoints waits for the other, which alone can react."""
    run = training(
        *['train_cfg.max_epochs=4', 'default_hooks.checkpoint.interval=1000'],
        config=slow(type='slow_parts.SlowValidation', epoch=1, rank=processes - 1),
        processes=processes,
        validation=True,
    )
    run.wait_until(lambda: 'a validation that does not end' in run.output())
    time.sleep(3)  # until the other waits in a collective call
    seconds = stop(run, send, getattr(signal, name), status_of(processes))
    assert read_checkpoint(checkpoints(run.work_dir)[0])['position']['validated'] == 0
    resumed = training('train_cfg.max_epochs=4', processes=processes, validation=True, arguments=('--resume',))
    assert resumed.wait(120) == 0, resumed.output()[-3000:]
    assert len([line for line in resumed.records() if 'knn5_T0.07_top1' in line]) == 4  # that which was left as well
    record_fault(
        f'asked to stop in a validation ({name})',
        f'{send.__name__.replace("_", " ")}, {processes} process(es), in a validation that does not end',
        f'a checkpoint of the state before it after {whole(seconds)} s; made up for by --resume',
    )


def wait_for_death(pids: list[int], limit: float = 5) -> float:
    began = time.monotonic()
    while any(map(is_alive, pids)) and time.monotonic() < began + limit:
        time.sleep(0.05)
    assert not [pid for pid in pids if is_alive(pid)]
    return time.monotonic() - began


def test_no_worker_outlives_a_main_process_that_is_killed(training, record_fault):
    run = training(*LONG, 'train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True')
    run.wait_for_iteration(5)
    workers = run.loader_workers()
    assert len(workers) == 2
    os.kill(run.process.pid, signal.SIGKILL)
    seconds = wait_for_death(workers)
    record_fault('main process killed', 'SIGKILL to it alone, 2 workers', f'workers gone after {whole(seconds)} s')
