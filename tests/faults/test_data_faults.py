"""Faults of data and of the workers that read it, in real runs: survived, or ended soon and in plain words; never a hang."""

import os
import re
import shutil
import signal
import threading
import time

import pytest
from injection import WORKERS, train_image

from mmadclr.reliability.watchdog import EXIT_HUNG

pytestmark = pytest.mark.slow

LONG = 'train_cfg.max_epochs=400'
EPOCHS = 24
SHORT = f'train_cfg.max_epochs={EPOCHS}'
WATCHFUL = 'default_hooks.watchdog.timeout_s=3'
# Seconds for what takes a few on a machine that does nothing else.
END = 180


def on(processes):
    """For the record: on how many processes."""
    return f'{processes} processes' if processes > 1 else '1 process'


def pipe_in_place_of(image):
    """A named pipe that no one writes to: whoever opens it waits, as for a file system that does not answer."""
    pipe = image.with_suffix('.pipe')
    os.mkfifo(pipe)
    pipe.replace(image)  # at once: an image that is missing for a moment would be another fault


def all_stacks(run):
    return ''.join(path.read_text() for path in run.work_dir.glob('stacks/*.txt'))


def answer(image):
    """Ends the waiting of readers, with nothing to read. From now on whoever opens the pipe gets the same."""
    stopped = threading.Event()

    def write() -> None:
        while not stopped.is_set():
            try:
                os.close(os.open(image, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:  # no one reads just now
                time.sleep(0.01)

    threading.Thread(target=write, daemon=True).start()
    return stopped


@pytest.mark.parametrize('processes', [1, 2])
def test_a_worker_killed_as_if_memory_had_run_out_ends_the_run(training, record_fault, processes):
    run = training(LONG, *WORKERS, processes=processes)
    run.wait_for_iteration(6)
    victim, killed = run.loader_workers(rank=processes - 1)[0], time.monotonic()
    os.kill(victim, signal.SIGKILL)
    assert run.wait(END) != 0
    seconds = time.monotonic() - killed
    # A connection that breaks before the signal arrives leaves torch with "(pid(s) 7) exited unexpectedly".
    assert re.search(r'error: DataLoader worker \(pid.*most likely the machine ran out of memory', run.output())
    assert 'resume from it with --resume' in run.output()
    outcome = f'ends within {seconds:.0f} s, saying that memory ran out and which checkpoint to go on from'
    record_fault('loader worker killed for memory', f'SIGKILL to a worker, {on(processes)}', outcome)


@pytest.mark.parametrize('processes', [1, 2])
def test_a_file_system_that_hangs_and_comes_back_is_survived(training, record_fault, tmp_path, processes):
    run = training(SHORT, *WORKERS, WATCHFUL, processes=processes)
    run.wait_for_iteration(6)
    image = train_image(tmp_path, 5)
    pipe_in_place_of(image)
    # On a slow machine there may be a report from before; it is the one of the hanging worker that counts.
    run.wait_until(lambda: 'in read_bytes' in all_stacks(run))
    stopped = answer(image)
    assert run.wait(END) == 0
    stopped.set()
    assert run.iteration() == EPOCHS * 4
    assert re.search(r'rank 0: no iteration has ended for \d+ s \(iteration \d+\); it waits for ', run.output())
    assert 'the data loader: no batch has arrived' in run.output()
    assert 'rank 0: resumed after' in run.output()
    assert 'train.py' in all_stacks(run), 'no stack of the main process'
    outcome = 'stacks of all processes and workers written; goes on when the file answers, the image is replaced'
    record_fault('file system hangs for a while', f'named pipe in place of an image, {on(processes)}', outcome)


@pytest.mark.parametrize('processes', [1, 2])
def test_a_file_system_that_hangs_for_ever_ends_the_run(training, record_fault, tmp_path, processes):
    run = training(LONG, *WORKERS, WATCHFUL, 'default_hooks.watchdog.abort_s=4', processes=processes)
    run.wait_for_iteration(6)
    pipe_in_place_of(train_image(tmp_path, 5))
    hung = time.monotonic()
    status = run.wait(END)
    seconds = time.monotonic() - hung
    assert status == (EXIT_HUNG if processes == 1 else 1)  # torchrun has a status of its own
    assert f'exits with status {EXIT_HUNG}; resume from the last checkpoint with --resume' in run.output()
    assert {path.stem[-1] for path in run.work_dir.glob('stacks/*.txt')} == {str(rank) for rank in range(processes)}
    outcome = f'stacks of all processes, then status {EXIT_HUNG}: {seconds:.0f} s with limits of 3 + 4 s'
    record_fault('file system hangs for ever', f'named pipe in place of an image, {on(processes)}', outcome)


def test_a_stopped_process_is_not_silent(training, record_fault):
    """SIGSTOP for longer than all limits, as a queue does that suspends jobs: nothing is reported, nothing ended."""
    run = training(SHORT, WATCHFUL, 'default_hooks.watchdog.abort_s=1')
    run.wait_for_iteration(6)
    os.kill(run.process.pid, signal.SIGSTOP)
    time.sleep(6)
    os.kill(run.process.pid, signal.SIGCONT)
    assert run.wait(END) == 0
    assert 'no iteration has ended' not in run.output()
    record_fault('process suspended', 'SIGSTOP for longer than all limits of the watchdog', 'goes on, nothing is reported')


@pytest.mark.parametrize('processes', [1, 2])
def test_a_folder_that_changes_under_a_run(training, record_fault, tmp_path, processes):
    """Files that are deleted or cut off are replaced and listed once; new ones wait for the next start."""
    run = training(SHORT, *WORKERS, processes=processes)
    run.wait_for_iteration(6)
    deleted, cut_off = train_image(tmp_path, 3), train_image(tmp_path, 8)
    shutil.copy(train_image(tmp_path, 0), tmp_path / 'shapes/train/new.png')
    deleted.unlink()
    os.truncate(cut_off, cut_off.stat().st_size // 2)
    assert run.wait(END) == 0
    assert run.iteration() == EPOCHS * 4
    listed = (run.work_dir / 'unreadable_images.txt').read_text().splitlines()
    assert sorted(line.partition(':')[0] for line in listed) == sorted(map(str, (deleted, cut_off)))
    assert run.output().count(f'replaced by the next one: {deleted}') == 1
    outcome = 'replaced, listed once in unreadable_images.txt; new files wait for the next start'
    record_fault('data folder changes', f'one image deleted, one cut off, one added, {on(processes)}', outcome)


@pytest.mark.parametrize('processes', [1, 2])
def test_a_folder_that_vanishes_ends_the_run_everywhere(training, record_fault, tmp_path, processes):
    run = training(LONG, *WORKERS, processes=processes)
    run.wait_for_iteration(6)
    shutil.move(tmp_path / 'shapes/train', tmp_path / 'gone')
    assert run.wait(END) != 0
    assert re.search(r'error: 16 consecutive images of 16 in .*shapes/train cannot be read; the first: ', run.output())
    outcome = 'ends with one line that names the folder and the first file'
    record_fault('data folder vanishes', f'folder moved away, {on(processes)}', outcome)


def test_the_limit_ends_all_processes_with_the_same_message(training, record_fault, tmp_path):
    run = training(LONG, 'default_hooks.unreadable.max_unreadable=3', processes=2)
    run.wait_for_iteration(6)
    for number in (1, 4, 7, 10):
        train_image(tmp_path, number).write_bytes(b'')
    assert run.wait(END) != 0
    messages = re.findall(r'error: (4 images cannot be read, more than max_unreadable=3 .*)', run.output())
    assert len(messages) == 2
    assert messages[0] == messages[1]
    assert len((run.work_dir / 'unreadable_images.txt').read_text().splitlines()) == 4
    outcome = 'both processes end with the same message'
    record_fault('too many unreadable images', 'four of 16 images emptied, max_unreadable=3, 2 processes', outcome)
