"""Silence is noticed, reported with stacks, and ended; whoever works, was stopped or has left is not bothered."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from mmadclr.engine import Runner
from mmadclr.engine.hooks.watchdog_hook import WatchdogHook
from mmadclr.reliability.watchdog import EXIT_HUNG, Watchdog, WorkerStacks, listens, waits_for, write_stacks


class Calls:
    """What a watchdog did, in order."""

    def __init__(self) -> None:
        self.made = []
        self.at_work = True

    def watchdog(self, abort_s=None):
        return Watchdog(
            report=lambda seconds, final: self.made.append('last words' if final else 'report'),
            recovered=lambda seconds: self.made.append('recovered'),
            working=lambda: self.at_work,
            abort_s=abort_s,
            poll_s=0.02,
            end=self.made.append,
        )


def watched(calls, beats, allowed=0.2, **kwargs):
    """Runs a watchdog over beats at the given distances in seconds."""
    dog = calls.watchdog(**kwargs)
    dog.beat(allowed)
    dog.start()
    for distance in beats:
        time.sleep(distance)
        dog.beat(allowed)
    dog.stop()
    time.sleep(0.1)
    return calls.made


@pytest.mark.parametrize(
    ('beats', 'kwargs', 'expected'),
    [
        ([0.05] * 10, {}, []),
        ([0.5, 0.05, 0.05], {}, ['report', 'recovered']),
        ([0.5, 0.05, 0.5, 0.05, 0.05], {}, ['report', 'recovered'] * 2),
        ([0.6, 0.0], dict(abort_s=5), ['report', 'recovered']),
        ([0.9, 0.0], dict(abort_s=0.2), ['report', 'last words', EXIT_HUNG]),
        ([0.9], dict(allowed=2), []),
    ],
)
def test_silence(beats, kwargs, expected):
    assert watched(Calls(), beats, **kwargs) == expected


def test_a_watchdog_whose_work_was_left_by_an_exception_ends_by_itself():
    calls = Calls()
    calls.at_work = False
    assert watched(calls, [0.8], abort_s=0.1) == []


def test_a_report_that_hangs_does_not_keep_the_process_alive(monkeypatch):
    """As it does when the file system hangs that it writes to."""
    calls, hanging = Calls(), threading.Event()
    dog = calls.watchdog(abort_s=0.1)
    dog.report = lambda *_: hanging.wait(20)
    monkeypatch.setattr('mmadclr.reliability.watchdog.LAST_WORDS_S', 0.1)
    dog.beat(0.1)
    dog.start()
    time.sleep(0.8)
    assert calls.made == [EXIT_HUNG]
    hanging.set()


@pytest.mark.slow
def test_a_process_that_was_stopped_was_not_silent(tmp_path):
    code = (
        'import sys, time; from mmadclr.reliability.watchdog import Watchdog\n'
        'dog = Watchdog(lambda *_: print("report"), print, lambda: True, abort_s=0.1, poll_s=0.1)\n'
        'dog.beat(2); dog.start(); print("started", flush=True); time.sleep(1)\n'
    )
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'started\n'
    process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    process.send_signal(signal.SIGCONT)
    assert process.stdout.read() == ''
    assert process.wait() == 0


class Slow(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        time.sleep(3)
        return index


def fetch():
    next(iter(DataLoader(Slow(), num_workers=1)))


def multiply():
    x = torch.ones(2, requires_grad=True)
    x.register_hook(lambda gradient: time.sleep(1))
    x.sum().backward()


@pytest.mark.parametrize(
    ('work', 'expected'),
    [
        (fetch, 'the data loader: no batch has arrived'),
        (multiply, 'the backward pass'),
        (lambda: time.sleep(1), r'something else \(test_watchdog\.py:\d+ in <lambda>\)'),
    ],
)
def test_what_a_thread_waits_for(work, expected):
    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.5)
    assert re.match(expected, waits_for(thread.ident))
    thread.join()


def test_stacks_of_threads_and_forked_workers(tmp_path):
    stacks = WorkerStacks()
    thread = threading.Thread(target=fetch)
    thread.start()
    time.sleep(0.7)
    write_stacks(tmp_path / 'stacks' / 'all.txt', stacks)
    thread.join()
    stacks.close()
    own, _, workers = (tmp_path / 'stacks' / 'all.txt').read_text().partition('--- worker processes: ')
    assert 'in fetch' in own
    assert 'in test_stacks_of_threads_and_forked_workers' in own
    assert re.match(r'\d+ ---', workers)
    assert re.search(r'test_watchdog\.py", line \d+ in __getitem__', workers)


def called_in_itself(times):
    return called_in_itself(times - 1) if times else time.sleep(600)


def test_stacks_of_several_workers_are_not_mixed():
    stacks = WorkerStacks()
    context = multiprocessing.get_context('fork')
    workers = [context.Process(target=called_in_itself, args=(20,), daemon=True) for _ in range(3)]
    for worker in workers:
        worker.start()
    time.sleep(0.5)
    for _ in range(3):
        assert stacks.collect().decode().count(' in called_in_itself\n') == 21 * len(workers)
    for worker in workers:
        worker.kill()
        worker.join()
    stacks.close()


def test_processes_that_do_not_know_the_signal_are_spared():
    other = subprocess.Popen(
        [sys.executable, '-c', 'print(1, flush=True); input()'], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    other.stdout.readline()
    stacks = WorkerStacks()
    assert listens(os.getpid())
    assert not listens(other.pid)
    stacks.close()
    other.communicate(b'\n')
    assert not listens(other.pid)


class Pause(Hook):
    """Sleeps in one iteration, or fails there."""

    def __init__(self, seconds: float, fail: bool = False) -> None:
        self.seconds, self.fail = seconds, fail

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == 4:
            if self.fail:
                raise KeyError('failed')
            time.sleep(self.seconds)


def run_with(small_config, pause, **watchdog):
    cfg = small_config({'train_cfg.val_interval': 100, 'default_hooks.checkpoint': None, 'default_hooks.watchdog': watchdog})
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    runner = Runner.from_cfg(cfg)
    runner.register_hook(pause)
    return runner


@pytest.mark.long
def test_a_run_that_hangs_for_a_while_is_reported_and_goes_on(small_config):
    runner = run_with(small_config, Pause(4), timeout_s=2)
    runner.train()
    time.sleep(0.5)  # the thread that tells of the end of the silence
    assert runner.iter == 6
    (stacks,) = (path for path in os.scandir(f'{runner.work_dir}/stacks'))
    assert stacks.name.endswith('_rank0.txt')
    assert 'in before_train_iter' in open(stacks).read()
    log = open(f'{runner.log_dir}/{runner.timestamp}.log').read()
    assert re.search(r'rank 0: no iteration has ended for [23] s \(iteration 4\); it waits for something else', log)
    assert re.search(r'test_watchdog\.py:\d+ in before_train_iter, called from ', log)
    assert 'rank 0: resumed after' in log


def test_a_run_that_failed_is_not_watched_any_more(small_config):
    runner = run_with(small_config, Pause(0, fail=True), timeout_s=0.2, abort_s=0.2)
    before = set(threading.enumerate())
    with pytest.raises(KeyError):
        runner.train()
    time.sleep(1.5)  # this process would be ended
    assert not os.path.exists(f'{runner.work_dir}/stacks')
    assert 'watchdog' not in {thread.name for thread in set(threading.enumerate()) - before}


@pytest.mark.parametrize(
    'settings', [dict(timeout_s=0), dict(timeout_s=None), dict(first_s=-1), dict(val_s=0), dict(abort_s=0)]
)
def test_times_must_be_positive(settings):
    with pytest.raises(ValueError, match=f'WatchdogHook: {next(iter(settings))}=.* must be above 0'):
        WatchdogHook(**settings)
