"""Signals to a whole group: workers outlive them and end with the main process; the main process stops in good order."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import programs
import pytest
import torch
from mmengine.hooks import Hook
from numbers_read import Numbers
from places import REPO
from torch.utils.data import DataLoader

from mmadclr.checkpoint import read_checkpoint
from mmadclr.cli.launch import report_bad_input
from mmadclr.datasets.loader_workers import GROUP_SIGNALS, outlive_signals
from mmadclr.engine import Runner
from mmadclr.reliability import stop_signals
from mmadclr.reliability.stop_signals import PreemptedError, StopSignals

STOPS = sorted(GROUP_SIGNALS)


def hit_by_all(worker_id: int) -> None:
    """A ``worker_init_fn`` of one's own, in a worker that gets every signal while it starts."""
    for number in STOPS:
        os.kill(os.getpid(), number)
    np.random.seed(worker_id)  # noqa: NPY002


def loader(**kwargs) -> DataLoader:
    return DataLoader(Numbers(), 1, num_workers=2, generator=torch.Generator().manual_seed(3), **kwargs)


def read(batches, number: int | None = None) -> list:
    """All batches; after the first, a signal goes to the worker it came from."""
    found = [next(batches)]
    if number is not None:
        os.kill(int(found[0][1]), number)
        time.sleep(0.2)
    return found + list(batches)


def is_alive(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def ends(pid: int, seconds: float = 10) -> bool:
    """Whether a process ends in time."""
    end = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_alive(pid)


@pytest.mark.long
@pytest.mark.parametrize('method', ['fork', 'spawn', 'forkserver'])
def test_workers_outlive_stop_signals(method):
    batches = iter(outlive_signals(loader(multiprocessing_context=method)))
    found = [next(batches), next(batches)]  # one of each worker: both are there
    for worker in {int(batch[1]) for batch in found}:
        for number in STOPS:
            os.kill(worker, number)
    time.sleep(0.2)
    found += list(batches)
    assert [int(batch[0]) for batch in found] == list(range(8))
    assert {bool(batch[4]) for batch in found} == {method == 'fork'}, 'started anew, workers import what they need'


def test_no_thread_of_a_worker_is_open_to_stop_signals_where_a_fork_server_ran_before(monkeypatch):
    """Libraries start threads of their own when they are imported: before anything of ours runs."""
    common = forkserver.ForkServer()
    common.ensure_running()
    monkeypatch.setattr(forkserver, 'connect_to_new_process', common.connect_to_new_process)
    batches = iter(outlive_signals(loader(multiprocessing_context='forkserver')))
    found = [next(batches), next(batches)]
    for worker in {int(batch[1]) for batch in found}:
        for thread in Path(f'/proc/{worker}/task').iterdir():
            blocked = int(re.search(r'SigBlk:\s*(\w+)', (thread / 'status').read_text())[1], 16)
            assert all(blocked >> (number - 1) & 1 for number in STOPS), thread


def test_the_workers_of_torch_do_not():
    """Killed while it waits for work: with a lock that the main process needs, it would leave that one waiting for ever."""
    batches = iter(loader(prefetch_factor=1))
    worker = int(next(batches)[1])
    time.sleep(0.5)
    os.kill(worker, signal.SIGTERM)
    assert ends(worker)


def test_signals_while_workers_start_do_no_harm_and_an_init_function_of_the_user_runs():
    batches = list(outlive_signals(loader(worker_init_fn=hit_by_all)))
    first = [np.random.RandomState(worker).random_sample() for worker in (0, 1)]  # batches come from the workers in turn
    assert [batch[3].item() for batch in batches[:2]] == first
    assert len(batches) == 8


def test_random_numbers_are_those_of_other_workers():
    ours, torchs = (list(batches) for batches in (outlive_signals(loader()), loader()))
    assert [[float(value) for value in batch[2:4]] for batch in ours] == [
        [float(value) for value in batch[2:4]] for batch in torchs
    ]


def test_the_main_process_ends_a_worker_at_once():
    batches = iter(outlive_signals(loader(persistent_workers=True)))
    next(batches)
    worker = multiprocessing.active_children()[0]
    began = time.monotonic()
    batches._shutdown_workers()
    worker.terminate()
    worker.join(5)
    assert worker.exitcode == 0
    assert time.monotonic() - began < 3


def test_signals_that_a_program_handles_itself_are_not_for_workers():
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        found = read(iter(outlive_signals(loader())), signal.SIGALRM)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(found) == 8


class Slow(Numbers):
    """Says who reads, and never comes to an end."""

    def __init__(self, said: int) -> None:
        self.said = said

    def __getitem__(self, index):
        os.write(self.said, b'%d\n' % os.getpid())  # at once: two workers write
        time.sleep(600)


def read_slowly(said: int) -> None:
    next(iter(outlive_signals(DataLoader(Slow(said), 1, num_workers=2, prefetch_factor=1))))


def test_workers_end_when_the_main_process_is_killed():
    """In the middle of a sample that takes for ever, where torch would not look."""
    heard, said = os.pipe()
    main = multiprocessing.get_context('fork').Process(target=read_slowly, args=(said,))
    main.start()
    os.close(said)
    with open(heard) as lines:
        workers = [int(lines.readline()) for _ in range(2)]
    assert all(map(is_alive, workers))
    main.kill()
    main.join()
    assert all(map(ends, workers))


KILLED_WITH_A_LOCK = """
import os, signal, sys
import torch
from torch.utils.data import DataLoader, Dataset
from mmadclr.datasets.loader_workers import outlive_signals

class Numbers(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 5:
            frame = sys._getframe()
            while 'done_event' not in frame.f_locals:  # of torch's loop
                frame = frame.f_back
            lock = getattr(frame.f_locals['done_event'], '_cond', None)
            lock and lock.acquire()
            os.kill(os.getpid(), signal.SIGKILL)
        return index

if __name__ == '__main__':
    batches = iter(outlive_signals(DataLoader(Numbers(), 1, num_workers=2)))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # or torch raises anywhere
    try:
        print([int(batch) for batch in batches])
    except (RuntimeError, OSError, EOFError):  # the latter while it hands a batch over
        print('told')
    del batches
    print('ended')
"""


def test_a_worker_killed_with_a_lock_does_not_keep_the_main_process(tmp_path):
    (tmp_path / 'killed.py').write_text(KILLED_WITH_A_LOCK)
    done = programs.python(tmp_path / 'killed.py', timeout=90)
    assert done.stdout.split() == ['told', 'ended'], done.stderr


TWICE = """
import signal, sys, time
from mmadclr.reliability.stop_signals import REPEAT_S, StopSignals
stop = StopSignals(['SIGTERM', 'SIGINT', 'SIGUSR1'])
stop.listen()
first, second = (getattr(signal, name) for name in sys.argv[1:])
signal.raise_signal(first)
signal.raise_signal(second)
print(stop.received, flush=True)
time.sleep(REPEAT_S + 0.1)
signal.raise_signal(second)
print('lived', flush=True)
"""


@pytest.mark.parametrize(
    ('first', 'second', 'status'),
    [
        ('SIGTERM', 'SIGTERM', -signal.SIGTERM),
        ('SIGINT', 'SIGINT', -signal.SIGINT),
        ('SIGINT', 'SIGTERM', -signal.SIGTERM),  # torchrun, at a second Ctrl-C
        ('SIGUSR1', 'SIGTERM', -signal.SIGTERM),  # the second of the second kind
    ],
)
def test_twice_at_a_time_is_once_and_later_the_end(first, second, status, tmp_path):
    (tmp_path / 'twice.py').write_text(TWICE)
    main = programs.python(tmp_path / 'twice.py', first, second, check=False)
    assert main.stdout.split() == [first]
    assert main.returncode == status
    assert main.stderr.split('\n')[1] == f'{first}: stopping after a checkpoint; send it again to exit immediately'


@pytest.fixture
def restored():
    """Puts the handlers of all stop signals back."""
    before = {number: signal.getsignal(number) for number in STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_another_kind_later_is_no_second(restored, monkeypatch):
    """Slurm sends SIGTERM at the time limit to a run that writes its checkpoint since SIGUSR1."""
    monkeypatch.setattr(stop_signals, 'REPEAT_S', 0.0)
    stop = StopSignals(['SIGUSR1', 'SIGTERM'])
    stop.listen()
    signal.raise_signal(signal.SIGUSR1)
    signal.raise_signal(signal.SIGTERM)
    assert stop.received == 'SIGUSR1'
    assert stop.look()


def test_under_nohup_a_closed_terminal_stays_ignored(restored):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopSignals(['SIGHUP', 'SIGTERM'])
    stop.listen()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    stop.listen()
    signal.raise_signal(signal.SIGHUP)
    assert stop.received == 'SIGHUP'


@pytest.mark.parametrize(('elastic', 'received'), [(True, 'torchrun has ended'), (False, None)])
def test_the_end_of_torchrun_is_a_wish_to_stop(restored, monkeypatch, elastic, received):
    monkeypatch.setattr(stop_signals.distributed, 'is_torchelastic_launched', lambda: elastic)
    stop = StopSignals(['SIGTERM'])
    stop.listen()
    assert not stop.look()
    monkeypatch.setattr(os, 'getppid', lambda: 1)
    assert stop.look() == elastic
    assert stop.received == received


class InValidation(Hook):
    """A signal in the validation after epoch ``epoch``."""

    def __init__(self, epoch: int, name: str) -> None:
        self.epoch, self.name = epoch, name

    def before_val_epoch(self, runner) -> None:
        if runner.epoch == self.epoch:
            signal.raise_signal(getattr(signal, self.name))
            raise AssertionError('the validation went on')


class BeforeValidation(Hook):
    """A signal after the last iteration of the first epoch."""

    priority = 'LOWEST'  # after that of checkpoints

    def after_train_epoch(self, runner) -> None:
        if runner.epoch == 0:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.long
@pytest.mark.parametrize('interval', [1, 1000])
@pytest.mark.parametrize('hook', [InValidation(1, 'SIGINT'), BeforeValidation()], ids=['in', 'before'])
def test_a_validation_is_left_and_made_up_for(train, small_config, hook, interval):
    settings = {'train_cfg.val_interval': 1, 'default_hooks.checkpoint.interval': interval}
    whole = train(settings, work_dir='whole')
    runner = Runner.from_cfg(small_config(settings, work_dir='stopped'))
    runner.register_hook(hook)
    with pytest.raises(PreemptedError):
        runner.train()
    (checkpoint,) = Path(runner.work_dir).glob('*.pth')
    assert checkpoint.name == ('epoch_1.pth' if interval == 1 else 'iter_3.pth')
    assert read_checkpoint(checkpoint)['position']['validated'] == 0
    resumed = train(settings | {'resume': True}, work_dir='stopped')
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name
    histories = [run.message_hub.get_scalar('val/knn5_T0.07_top1').data[0].tolist() for run in (whole, resumed)]
    assert histories[0] == histories[1]


class FailsInValidation(Hook):
    def before_val_epoch(self, runner) -> None:
        raise RuntimeError('another process has left')


def test_a_validation_that_fails_costs_no_epoch(small_config):
    runner = Runner.from_cfg(small_config({'train_cfg.val_interval': 1, 'default_hooks.checkpoint.interval': 1000}))
    runner.register_hook(FailsInValidation())
    with pytest.raises(RuntimeError, match='another process has left'):
        runner.train()
    assert read_checkpoint(f'{runner.work_dir}/iter_3.pth')['meta']['iter'] == 3


def test_ctrl_c_ends_a_tool_with_one_line_and_130(restored, capsys):
    @report_bad_input
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == 'error: interrupted (Ctrl-C)\n'
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL


def test_what_comes_on_the_way_out_does_not_change_the_status(restored):
    @report_bad_input
    def main() -> None:
        raise PreemptedError

    with pytest.raises(PreemptedError):
        main()
    assert {signal.getsignal(number) for number in STOPS} == {signal.SIG_IGN}


@pytest.mark.long
def test_ctrl_c_in_an_evaluation_with_workers(image_folder):
    """To the foreground group, as a terminal sends it."""
    folder = image_folder()
    for image in sorted(folder.glob('*/*.png')):
        for copy in range(400):
            os.link(image, image.with_name(f'{image.stem}_{copy}.png'))
    command = ['tools/knn.py', 'configs/demo/adclr_vittiny_shapes.py', '--train', str(folder), '--val', str(folder)]
    main = subprocess.Popen(
        [sys.executable, *command, '--workers', '2', '--batch-size', '2'],
        cwd=REPO,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | dict(OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore'),
    )
    children = Path(f'/proc/{main.pid}/task/{main.pid}/children')
    end = time.monotonic() + 60
    while len(children.read_text().split()) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    workers = [int(pid) for pid in children.read_text().split()]
    assert len(workers) == 2
    time.sleep(0.3)
    os.killpg(main.pid, signal.SIGINT)
    errors = main.communicate(timeout=20)[1]
    assert main.returncode == 130
    assert [line for line in errors.splitlines() if 'INFO' not in line] == ['error: interrupted (Ctrl-C)']
    assert not any(map(is_alive, workers))


@pytest.mark.parametrize(('name', 'submissions'), [('SIGINT', 1), ('SIGTERM', 1), (None, 2)])
def test_slurm_script_submits_again_unless_it_is_stopped_itself(tmp_path, name, submissions):
    """With a stand-in for srun whose run stops with a checkpoint, and then comes to its end."""
    srun = tmp_path / 'srun'
    calls = tmp_path / 'calls'
    srun.write_text(
        f'#!/bin/bash\ntrap "" INT TERM\necho "$@" >> {calls}\n[ "$(wc -l < {calls})" = 2 ] && exit 0\nsleep 1\nexit 85\n'
    )
    srun.chmod(0o755)
    script = subprocess.Popen(
        ['tools/slurm_train.sh', 'partition', 'config.py', '8'],
        cwd=REPO,
        env=os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}'},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 20
    while not calls.exists() and time.monotonic() < end:
        time.sleep(0.05)
    if name is not None:
        time.sleep(0.3)
        os.killpg(script.pid, getattr(signal, name))
    assert script.wait(20) == (0 if name is None else 85)
    lines = calls.read_text().splitlines()
    assert [line.endswith(' --resume') for line in lines] == [False, True][:submissions]
