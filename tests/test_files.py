"""Outputs: whole or not at all, nothing else is touched, and refusals of the system are explained."""

import errno
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmadclr.files import UnwritableError, atomic_path, check_writable


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(path, work):
    with atomic_path(path) as temporary:
        work(temporary)


def test_a_file_replaces_a_file_at_the_end_of_the_block(tmp_path):
    target = tmp_path / 'deep' / 'result.json'
    for text in ('old', 'new'):
        with atomic_path(target) as temporary:
            assert temporary.suffix == '.json'
            temporary.write_text(text)
            assert text == 'old' or target.read_text() == 'old'
    assert target.read_text() == 'new'
    assert names(target.parent) == ['result.json']


def test_a_folder_replaces_a_folder_as_a_whole(tmp_path):
    target = tmp_path / 'out'
    for name in ('old', 'new'):
        with atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert names(tmp_path) == ['out']
    assert names(target) == ['new']


def test_a_file_never_replaces_a_folder(tmp_path):
    (tmp_path / 'runs').mkdir()
    (tmp_path / 'runs' / 'precious').touch()
    with (
        pytest.raises(UnwritableError, match='runs is a folder, not a file name'),
        atomic_path(tmp_path / 'runs') as temporary,
    ):
        temporary.write_text('new')
    with pytest.raises(UnwritableError, match='runs is a folder, not a file name'):
        check_writable(tmp_path / 'runs')
    assert names(tmp_path) == ['runs']
    assert names(tmp_path / 'runs') == ['precious']


def test_a_folder_never_replaces_a_file(tmp_path):
    (tmp_path / 'model').write_text('precious')
    with pytest.raises(UnwritableError, match='model cannot be written: Not a directory'):
        write(tmp_path / 'model', Path.mkdir)
    assert names(tmp_path) == ['model']
    assert (tmp_path / 'model').read_text() == 'precious'


def full(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_said_and_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / 'weights.pth'
    target.write_text('old')
    with pytest.raises(UnwritableError, match='weights.pth cannot be written: No space left on device'):
        write(target, full)

    class FullFile:
        write = full

    # torch turns the error of the file into one about positions.
    with pytest.raises(UnwritableError, match='weights.pth cannot be written: No space left on device'):
        write(target, lambda temporary: torch.save({'a': torch.zeros(9)}, FullFile()))
    assert names(tmp_path) == ['weights.pth']
    assert target.read_text() == 'old'


def test_places_that_cannot_be_are_said_before_and_after(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UnwritableError, match='file/result.json cannot be written: (Not a directory|File exists)'):
        check_writable(tmp_path / 'file' / 'result.json')
    with pytest.raises(UnwritableError, match='file/result.json cannot be written: (Not a directory|File exists)'):
        write(tmp_path / 'file' / 'result.json', Path.touch)
    check_writable(tmp_path / 'new' / 'result.json')
    assert names(tmp_path) == ['file', 'new']
    assert names(tmp_path / 'new') == []


@pytest.mark.parametrize('error', [ValueError('of the work'), RuntimeError('of the work'), FileNotFoundError('of the work')])
def test_other_errors_pass_as_they_are(tmp_path, error):
    def work(temporary):
        temporary.touch()
        raise error

    with pytest.raises(type(error), match='^of the work$'):
        write(tmp_path / 'result.json', work)
    assert names(tmp_path) == []


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match='nothing was written to .*result.json'),
        atomic_path(tmp_path / 'result.json'),
    ):
        pass


@pytest.mark.parametrize('mask', [0o022, 0o077])
def test_permissions_are_those_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        with atomic_path(tmp_path / 'a.safetensors') as temporary:
            save_file({'a': torch.zeros(1)}, temporary)
        with atomic_path(tmp_path / 'folder') as temporary:
            temporary.mkdir()
            save_file({'a': torch.zeros(1)}, temporary / 'a.safetensors')
    finally:
        os.umask(before)
    for file in (tmp_path / 'a.safetensors', tmp_path / 'folder' / 'a.safetensors'):
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask
