"""Atomic writing of files and folders."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


class UnwritableError(OSError, ValueError):
    """A file or folder cannot be written: no space, no permission, or a conflicting file."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Context with a temporary path next to ``path``, for a file or folder; renamed to ``path`` on exit.

    It has the suffix of ``path``. On errors it is removed, and an existing ``path`` is unchanged. A file replaces
    an older file; a folder replaces an older folder, which is moved out of the way first. Neither replaces the other. Files
    get default permissions, even if a library such as safetensors makes them readable only by their owner.

    Raises:
        UnwritableError: The system refuses to write, or a file would replace a folder.
        FileNotFoundError: Nothing was written.
    """
    path = Path(path)
    temporary = path.with_name(f'.{os.getpid()}.tmp.{path.name}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        permissions = _permissions(path.parent)
        yield temporary
        if not temporary.exists():
            raise FileNotFoundError(f'nothing was written to {temporary} for {path}')
        _set_permissions(temporary, permissions)
        _replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise UnwritableError(f'{path} cannot be written: {refusal}') from error
    finally:
        _remove(temporary)


def check_writable(path: str | Path) -> None:
    """Checks in advance that a file can be written; creates its folder.

    Raises:
        UnwritableError: It cannot, or ``path`` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise UnwritableError(f'{path} is a folder, not a file name')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _permissions(path.parent)
    except OSError as error:
        raise UnwritableError(f'{path} cannot be written: {_refusal(error)}') from error


@contextmanager
def writing_below(folder: str | Path) -> Iterator[None]:
    """Explains refusals of the system to make a folder, or files in it, by libraries that make them on their way.

    Raises:
        UnwritableError: An error of the system was about the folder, one above or a file below it.
    """
    try:
        yield
    except OSError as error:
        folder, place = Path(folder).absolute(), Path(str(error.filename)).absolute()
        if error.filename is None or not (folder.is_relative_to(place) or place.is_relative_to(folder)):
            raise
        raise UnwritableError(f'{folder} cannot be made or written: {error.strerror}; name another folder') from error


def _permissions(folder: Path) -> int:
    """Default permissions of new files in a folder, determined by creating one."""
    probe = folder / f'.{os.getpid()}.{threading.get_ident()}.probe'
    try:
        with probe.open('wb') as file:
            return os.fstat(file.fileno()).st_mode & 0o666
    finally:
        probe.unlink(missing_ok=True)


def _set_permissions(path: Path, permissions: int) -> None:
    for file in [path] if path.is_file() else path.rglob('*'):
        if file.is_file():
            file.chmod(permissions)


def _refusal(error: BaseException) -> str | None:
    """The system's message if the error came from the system; None for other errors and those with their own message."""
    if type(error) is RuntimeError and isinstance(error.__context__, OSError):
        error = error.__context__  # torch.save reports a full disk as "unexpected pos"
    if isinstance(error, SafetensorError):
        return str(error)
    if not isinstance(error, OSError) or isinstance(error, UnwritableError):
        return None
    explained = isinstance(error, (FileNotFoundError, FileExistsError)) and error.errno is None
    return None if explained else error.strerror or str(error)


def _replace(new: Path, path: Path) -> None:
    if not path.is_dir() or path.is_symlink():
        os.replace(new, path)
        return
    if not new.is_dir():
        raise UnwritableError(f'{path} is a folder, not a file name')
    old = path.with_name(f'.{os.getpid()}.old.{path.name}')
    os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old, path)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
