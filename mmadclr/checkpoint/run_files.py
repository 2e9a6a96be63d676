"""Checkpoint files of a run: written atomically, verified before use, and pruned."""

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
        OSError, RuntimeError: The file cannot be written, for example because the disk is full; an existing file is
            unchanged and no temporary file is left.
    """
    path = Path(path)
    write_synced(content, path)
    with atomic_path(path.with_name(POINTER)) as temporary:
        temporary.write_text(str(path))
    sync_folder(path.parent)


def write_synced(content: dict[str, Any], path: Path) -> None:
    """Writes a file under a temporary name, syncs it to disk, and renames it."""
    with atomic_path(path) as temporary, open(temporary, 'wb') as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Syncs renames in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoints(work_dir: str | Path) -> list[Path]:
    """Checkpoints in a work dir, newest first."""
    folder = Path(work_dir)
    found = [path for path in folder.glob('*.pth') if NAME.match(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)


def newest_good_checkpoint(work_dir: str | Path, warn: Callable[[str], None]) -> Path | None:
    """The newest intact checkpoint; logs one warning for every newer one that is damaged.

    Intact means that all checksums of the archive match and the file can be read as a checkpoint.
    """
    for path in checkpoints(work_dir):
        problem = find_damage(path)
        if problem is None:
            return path
        warn(f'{path} is damaged ({problem}): using the previous checkpoint')
    return None


def find_damage(path: Path) -> str | None:
    """Describes what is wrong with a checkpoint file; None if it is intact."""
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
    """A checkpoint to resume from; collective call.

    Tensors that will be copied to ``device`` anyway stay memory-mapped until then, and all processes of a machine share the
    mapped pages: the file is read once, and no process holds a copy in memory.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or not a checkpoint of a run.
    """
    damage = [find_damage(Path(filename)) if is_main_process() and zipfile.is_zipfile(filename) else None]
    broadcast_object_list(damage)
    if damage[0] is not None:
        raise ValueError(f'{filename} is damaged ({damage[0]}): resume from the previous checkpoint')
    checkpoint = read_checkpoint(filename, mapped=True)
    check_resumable(filename, checkpoint)
    copied = {'state_dict'} if device == 'cpu' else {'state_dict', 'optimizer'}
    return {name: part if name in copied else snapshot(part) for name, part in checkpoint.items()}


def check_resumable(filename: str | Path, checkpoint: dict) -> None:
    """Raises ValueError if a file is not a checkpoint of a run, or contains objects that were not rebuilt."""
    missing = {'meta', 'state_dict', 'message_hub', 'optimizer'} - checkpoint.keys()
    if missing:
        raise ValueError(
            f'{filename} has no {", ".join(sorted(missing))}: it is not a checkpoint of a run and cannot be resumed. '
            'To start from its weights, set load_from or the init_cfg of the backbone; convert official training '
            'checkpoints with mmadclr convert --to mmadclr first'
        )
    needed = {
        name: part
        for name, part in checkpoint.items()
        if name in ('state_dict', 'optimizer', 'param_schedulers', 'position')
    }
    unknown = list(find_placeholders(needed))
    if unknown:
        raise ValueError(f'{filename}: {", ".join(unknown[:4])} are pickled objects, which are not loaded from checkpoints')


def clear_away(work_dir: str | Path, keep: int, is_milestone: Callable[[Path], bool]) -> list[Path]:
    """Prunes all but the newest ``keep`` checkpoints and the milestones; returns the removed paths."""
    old = [path for path in checkpoints(work_dir) if not is_milestone(path)][keep:]
    for path in old:
        path.unlink(missing_ok=True)
    return old
