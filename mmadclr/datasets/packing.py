"""Packs folders of images into tar shards in webdataset's layout."""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import os
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from mmengine.logging import print_log

import mmadclr
from mmadclr.datasets.pixels import PixelOptions
from mmadclr.datasets.readers import read_class_folders, read_folder
from mmadclr.datasets.shrinking import FILTER, SUBSAMPLING, Shrinking, Shrunk, checked, shrink
from mmadclr.names import printable

RECORD = 'packing.json'
LOG_SECONDS = 30.0
MAX_SHOWN = 20


class Packed(NamedTuple):
    """Statistics of a packed shard.

    ``smaller``: number of shrunk images; ``read``, ``written``: bytes before and after; ``lost``: information lost by
    shrinking, with counts; ``unreadable``: messages about unreadable images.
    """

    smaller: int
    read: int
    written: int
    lost: Counter
    unreadable: list[str]


def pack_shards(
    source: str | Path,
    out_dir: str | Path,
    images_per_shard: int,
    with_label: bool = False,
    seed: int = 0,
    max_side: int | None = None,
    quality: int = 90,
    num_workers: int = 1,
    options: PixelOptions = PixelOptions(),  # noqa: B008
) -> list[Path]:
    """Copies the images in ``source`` to shards for ``ImageDataset(shards='*.tar')``.

    Bytes are unchanged, except for large images if ``max_side`` is set: see
    :mod:`mmadclr.datasets.shrinking`. Unreadable images are then packed unchanged, and listed in the log and
    the record; training counts them. The order is random, so that neighbors in a shard belong to many classes. Keys are
    consecutive numbers over all shards. Settings and statistics are written to ``packing.json`` next to the shards.

    Args:
        source: Folder of images; of class folders if ``with_label``.
        out_dir: Folder of the shards, empty or not yet existing.
        images_per_shard: Images per shard; the last one may have fewer.
        with_label: Add a ``.cls`` member with the class index for each image, and ``classes.txt`` with the names.
        seed: Of the order.
        max_side: Maximum longer side in pixels; None: no image is decoded.
        quality: JPEG quality of shrunk images.
        num_workers: Number of processes; the shards do not depend on it.
        options: Interpretation of pixels, for shrunk images.

    Returns:
        Paths of the shards.

    Raises:
        FileNotFoundError, ValueError: See the readers; or a number is out of range.
        FileExistsError: ``out_dir`` exists and is not an empty folder.
    """
    if images_per_shard < 1:
        raise ValueError(f'images_per_shard={images_per_shard} must be at least 1')
    if num_workers < 1:
        raise ValueError(f'num_workers={num_workers} must be at least 1')
    shrinking = None if max_side is None else checked(Shrinking(max_side, quality, options))
    listing = read_class_folders(source) if with_label else read_folder(source)
    folder = _empty_folder(out_dir)
    order = np.random.default_rng(seed).permutation(len(listing.paths))
    shards: list[Path] = []
    tasks: list[tuple] = []
    for first in range(0, len(order), images_per_shard):
        chosen = order[first : first + images_per_shard]
        labels = [None] * len(chosen) if listing.labels is None else listing.labels[chosen].tolist()
        paths = (Path(source) / os.fsdecode(name) for name in listing.paths.take(chosen))
        members = list(zip(paths, labels, strict=True))
        shards.append(folder / f'{len(shards):06d}.tar')
        tasks.append((shards[-1], first, members))
    with _mapping(num_workers) as each:
        packed = list(_told(each(partial(_write_shard, shrinking), tasks), len(tasks)))
    if with_label:
        (folder / 'classes.txt').write_text('\n'.join(listing.classes) + '\n', encoding='utf-8')
    settings = dict(images_per_shard=images_per_shard, with_label=with_label, seed=seed)
    _record(folder, settings, shrinking, packed, len(order))
    return shards


@contextmanager
def _mapping(num_workers: int) -> Iterator:
    """``map``, in this process or in several; results are in order."""
    if num_workers == 1:
        yield map
    else:
        with multiprocessing.get_context('spawn').Pool(num_workers) as pool:  # torch's threads do not survive a fork
            yield pool.imap


def _told(results: Iterator[Packed], total: int) -> Iterator[Packed]:
    started = logged = time.monotonic()
    for done, packed in enumerate(results, start=1):
        yield packed
        now = time.monotonic()
        if now - logged >= LOG_SECONDS:
            logged = now
            print_log(f'{done} of {total} shards, {(total - done) * (now - started) / done / 60:.0f} min left', 'current')


def _record(folder: Path, settings: dict, shrinking: Shrinking | None, packed: list[Packed], images: int) -> None:
    """Writes what was done to the log and to a file next to the shards."""
    smaller, read, written = (sum(column) for column in list(zip(*packed, strict=True))[:3])
    lost = sum((part.lost for part in packed), Counter())
    unreadable = [message for part in packed for message in part.unreadable]
    record = dict(settings, images=images, smaller=smaller, bytes_read=read, bytes_written=written)
    if shrinking is not None:
        how = dict(max_side=shrinking.max_side, quality=shrinking.quality, format='JPEG', subsampling=SUBSAMPLING)
        record |= how | dict(filter=FILTER, options=shrinking.options._asdict(), lost=dict(lost), unreadable=unreadable)
        print_log(
            f'{smaller} of {images} images were larger than {shrinking.max_side} pixels and converted to JPEG with quality '
            f'{shrinking.quality} ({SUBSAMPLING}); {read / 1e6:.1f} MB became {written / 1e6:.1f} MB',
            'current',
        )
    for what, count in lost.items():
        print_log(f'{count} of the shrunk images {what}', 'current', logging.WARNING)
    if unreadable:
        shown = '; '.join(unreadable[:MAX_SHOWN]) + (' ...' if len(unreadable) > MAX_SHOWN else '')
        message = f'{len(unreadable)} images cannot be read and are packed unchanged: {shown}'
        print_log(message, 'current', logging.WARNING)
    record['versions'] = dict(mmadclr=mmadclr.__version__, pillow=PIL.__version__)
    (folder / RECORD).write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')


def _empty_folder(path: str | Path) -> Path:
    folder = Path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f'{printable(folder)} exists and is not an empty folder: choose another one for the shards')
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_shard(shrinking: Shrinking | None, task: tuple[Path, int, list[tuple[Path, int | None]]]) -> Packed:
    """Writes under a temporary name until complete, so that an interrupted run leaves no truncated shard."""
    path, first, images = task
    smaller, read, written = 0, 0, 0
    lost: Counter = Counter()
    unreadable = []
    partial = path.with_suffix('.partial')
    with tarfile.open(partial, 'w') as tar:
        for number, (image, label) in enumerate(images, start=first):
            key, data = f'{number:09d}', image.read_bytes()
            made = Shrunk(data) if shrinking is None else shrink(data, shrinking)
            extension = '.jpg' if made.changed else os.path.splitext(image.name)[1].lower()
            _add(tar, key + extension, made.data)
            if label is not None:
                _add(tar, f'{key}.cls', str(label).encode())
            smaller, read, written = smaller + made.changed, read + len(data), written + len(made.data)
            lost.update(made.lost)
            if made.error is not None:
                unreadable.append(f'{printable(image)}: {printable(made.error)}')
    partial.rename(path)
    return Packed(smaller, read, written, lost, unreadable)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
