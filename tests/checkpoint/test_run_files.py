"""How checkpoints of a run are copied, written and read: never more than one copy of a state, and none to go on from it."""

import subprocess
import sys
import threading

import pytest
import torch
from places import REPO

from mmadclr.checkpoint import read_checkpoint
from mmadclr.checkpoint import writer as checkpoint_writer
from mmadclr.checkpoint.writer import CheckpointWriter

MIB = 2**20


@pytest.fixture
def writer():
    return CheckpointWriter(report=pytest.fail, then=lambda: None)


def test_a_state_is_copied_when_the_one_before_is_written(writer, monkeypatch, tmp_path):
    done, events = threading.Event(), []
    copy = checkpoint_writer.snapshot
    monkeypatch.setattr(checkpoint_writer, 'snapshot', lambda content: events.append('copied') or copy(content))
    monkeypatch.setattr(checkpoint_writer, 'write_checkpoint', lambda *_: done.wait(10) and events.append('written'))
    writer.write({}, tmp_path / 'iter_1.pth')
    second = threading.Thread(target=writer.write, args=({}, tmp_path / 'iter_2.pth'))
    second.start()
    second.join(0.3)
    assert events == ['copied']
    done.set()
    second.join()
    writer.wait()
    assert events == ['copied', 'written', 'copied', 'written']


def test_what_is_written_is_the_state_at_the_call(writer, tmp_path):
    weight = torch.zeros(3)
    writer.write({'state_dict': {'weight': weight}}, tmp_path / 'iter_1.pth')
    weight += 1
    writer.wait()
    assert read_checkpoint(tmp_path / 'iter_1.pth')['state_dict']['weight'].tolist() == [0, 0, 0]


OWN_MEMORY = """
import re, sys
from mmadclr.checkpoint.run_files import read_state
def own():
    return int(re.search(r'RssAnon:\\s+(\\d+) kB', open('/proc/self/status').read())[1]) / 1024
before = own()
checkpoint = read_state(*sys.argv[1:])
tensors = checkpoint['state_dict']['weight'], checkpoint['optimizer']['state'][0]['mean']
print(own() - before, *(tensor.sum().item() for tensor in tensors))
"""


@pytest.fixture
def state(tmp_path):
    """A checkpoint of 64 MiB of weights and as many of an optimizer."""
    weight, moments = torch.ones(16 * MIB), torch.full((16 * MIB,), 2.0)
    content = dict(meta={}, message_hub={}, state_dict=dict(weight=weight), optimizer=dict(state={0: dict(mean=moments)}))
    torch.save(content, tmp_path / 'iter_1.pth')
    return tmp_path / 'iter_1.pth'


@pytest.mark.long
@pytest.mark.parametrize(('device', 'taken'), [('cpu', 64), ('cuda', 0)])
def test_a_state_to_go_on_from_takes_no_memory_of_its_own(state, device, taken):
    """Beside that of an optimizer on a CPU; in a process where no memory was freed that could be taken again."""
    command = [sys.executable, '-c', OWN_MEMORY, str(state), device]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=REPO)
    mib, weights, moments = map(float, done.stdout.split())
    assert mib == pytest.approx(taken, abs=24)
    assert (weights, moments) == (16 * MIB, 32 * MIB)


def test_what_is_done_to_mapped_tensors_stays_in_memory(state):
    read_checkpoint(state, mapped=True)['state_dict']['weight'].zero_()
    assert read_checkpoint(state)['state_dict']['weight'].min() == 1


def test_files_of_the_format_before_torch_1_6_are_read(tmp_path):
    torch.save({'state_dict': {'weight': torch.arange(3)}}, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    for mapped in (True, False):
        assert read_checkpoint(tmp_path / 'old.pth', mapped)['state_dict']['weight'].tolist() == [0, 1, 2]
