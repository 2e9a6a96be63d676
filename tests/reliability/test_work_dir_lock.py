"""One run alone in a work dir: refused where another lives, and a warning where the file system has no locks."""

import errno
import fcntl
import multiprocessing

import pytest

from mmadclr.reliability import work_dir_lock
from mmadclr.reliability.work_dir_lock import sole_use


def hold(folder, ends):
    with sole_use(folder):
        ends.send('held')
        ends.recv()


@pytest.fixture
def said(monkeypatch):
    messages = []
    monkeypatch.setattr(work_dir_lock, 'print_log', lambda message, *_: messages.append(message))
    return messages


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EIO])
def test_a_file_system_without_locks_starts_with_a_warning(tmp_path, monkeypatch, said, number):
    def refuse(*_):
        raise OSError(number, 'No locks available')

    monkeypatch.setattr(fcntl, 'lockf', refuse)
    with sole_use(tmp_path / 'work'):
        assert (tmp_path / 'work' / '.running').read_text().startswith('process ')
    (message,) = said
    assert message.startswith(f'{tmp_path}/work/.running cannot be locked (No locks available): a second run')


@pytest.mark.parametrize('number', [errno.EACCES, errno.EAGAIN])
def test_a_lock_that_is_taken_is_no_lack_of_locks(tmp_path, monkeypatch, said, number):
    def refuse(*_):
        raise OSError(number, 'taken')

    monkeypatch.setattr(fcntl, 'lockf', refuse)
    with pytest.raises(ValueError, match=r'is in use by another run \(unknown process\)'), sole_use(tmp_path):
        pass
    assert said == []


def test_a_work_dir_belongs_to_the_process_that_lives(tmp_path, said):
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe()
    holder = context.Process(target=hold, args=(tmp_path, theirs))
    holder.start()
    try:
        assert ours.recv() == 'held'
        with pytest.raises(ValueError, match=rf'in use by another run \(process {holder.pid} on '), sole_use(tmp_path):
            pass
    finally:
        ours.send('end')
        holder.join()
    with sole_use(tmp_path):
        assert said == []
