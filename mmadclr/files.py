"""Writing files and folders so that a half-written one never bears the final name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write a file or a folder to; renamed to ``path`` at the end of the block.

    It has the suffix of ``path``. After an error it is removed, and what ``path`` held before is untouched. A file replaces an
    older one; so does a folder, which is moved out of the way first.

    Raises:
        FileNotFoundError: The block wrote nothing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{os.getpid()}.tmp.{path.name}')
    try:
        yield temporary
        if path.is_dir() and not path.is_symlink():
            _replace_folder(temporary, path)
        else:
            os.replace(temporary, path)
    finally:
        _remove(temporary)


def _replace_folder(new: Path, path: Path) -> None:
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
    else:
        path.unlink(missing_ok=True)
