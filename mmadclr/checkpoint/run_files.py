"""Checkpoint files of a run: written whole or not at all, checked before they are trusted, cleared away in order."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, is_main_process

from mmadclr.checkpoint.reading import read_checkpoint
from mmadclr.checkpoint.snapshots import find_placeholders, snapshot
from mmadclr.files import atomic_path

NAME = re.compile(r'(epoch|iter)_\d+\.pth$')
POINTER = 'last_checkpoint'  # mmengine's name for the file that names the newest checkpoint


def write_checkpoint(content: dict[str, Any], path: str | Path) -> None:
    """Writes a checkpoint as :func:`write_synced` does, and makes it the newest of its folder.

    Raises:
        OSError, RuntimeError: The disk is full or the like; what ``path`` held before is untouched and nothing is left over.
    """
    path = Path(path)
    write_synced(content, path)
    with atomic_path(path.with_name(POINTER)) as temporary:
        temporary.write_text(str(path))
    sync_folder(path.parent)


def write_synced(content: dict[str, Any], path: Path) -> None:
    """Writes a file under a temporary name, waits until it is on the disk, and renames it."""
    with atomic_path(path) as temporary, open(temporary, 'wb') as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Waits until renamed files are on the disk under their new names."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoints(work_dir: str | Path) -> list[Path]:
    """Checkpoints of a work dir, the newest first."""
    folder = Path(work_dir)
    found = [path for path in folder.glob('*.pth') if NAME.match(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)


def newest_good_checkpoint(work_dir: str | Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole; every newer one that is not gets one line of warning.

    Whole means: all checksums of the archive are right, and it reads as a checkpoint.
    """
    for path in checkpoints(work_dir):
        problem = find_damage(path)
        if problem is None:
            return path
        warn(f'{path} is damaged ({problem}): the checkpoint before it is used')
    return None


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file, in words; None if nothing is."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            return f'wrong checksum of {broken}'
        read_checkpoint(path, mapped=True)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        return str(error).removeprefix(f'{path} ')
    return None


def read_state(filename: str | Path, device: str) -> dict[str, Any]:
    """A checkpoint to go on from; to be called on all processes.

    Tensors that are copied to their place on ``device`` anyway stay in the file until then, whose pages all processes of a
    machine share: it is read once, and held in memory by none of them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or no checkpoint of a run.
    """
    damage = [find_damage(Path(filename)) if is_main_process() and zipfile.is_zipfile(filename) else None]
    broadcast_object_list(damage)
    if damage[0] is not None:
        raise ValueError(f'{filename} is damaged ({damage[0]}): go on from the one before it')
    checkpoint = read_checkpoint(filename, mapped=True)
    check_resumable(filename, checkpoint)
    copied = {'state_dict'} if device == 'cpu' else {'state_dict', 'optimizer'}
    return {name: part if name in copied else snapshot(part) for name, part in checkpoint.items()}


def check_resumable(filename: str | Path, checkpoint: dict) -> None:
    """Raises a ValueError if a file is no checkpoint of a run, or holds objects that reading it did not rebuild."""
    missing = {'meta', 'state_dict', 'message_hub', 'optimizer'} - checkpoint.keys()
    if missing:
        raise ValueError(
            f'{filename} holds no {", ".join(sorted(missing))}: it is no checkpoint of a run, so none can go on from it. '
            'To start from its weights, set load_from or the init_cfg of the backbone; official training checkpoints first '
            'go through mmadclr convert --to mmadclr'
        )
    needed = {
        name: part
        for name, part in checkpoint.items()
        if name in ('state_dict', 'optimizer', 'param_schedulers', 'position')
    }
    unknown = list(find_placeholders(needed))
    if unknown:
        raise ValueError(f'{filename}: {", ".join(unknown[:4])} are objects, which are not read from checkpoints')


def clear_away(work_dir: str | Path, keep: int, is_milestone: Callable[[Path], bool]) -> list[Path]:
    """Removes all but the newest ``keep`` checkpoints and the milestones; returns what was removed."""
    old = [path for path in checkpoints(work_dir) if not is_milestone(path)][keep:]
    for path in old:
        path.unlink(missing_ok=True)
    return old
