"""Writes folders of images as tar shards in webdataset's layout."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np

from mmadclr.datasets.names import printable
from mmadclr.datasets.readers import read_class_folders, read_folder


def pack_shards(
    source: str | Path, out_dir: str | Path, images_per_shard: int, with_label: bool = False, seed: int = 0
) -> list[Path]:
    """Copies the images below ``source``, bytes unchanged, into shards that ``ImageDataset(shards='*.tar')`` reads.

    The order is random, so that neighbours in a shard are of many classes. Keys are running numbers over all shards.

    Args:
        source: Folder of images; of class folders if ``with_label``.
        out_dir: Folder of the shards, empty or not there yet.
        images_per_shard: Images in each but the last.
        with_label: A ``.cls`` member with the number of the class beside each image, and ``classes.txt`` with the names.
        seed: Of the order.

    Returns:
        Paths of the shards.

    Raises:
        FileNotFoundError, ValueError: See the readers; or ``images_per_shard`` is below 1.
        FileExistsError: ``out_dir`` is something else than an empty folder.
    """
    if images_per_shard < 1:
        raise ValueError(f'images_per_shard={images_per_shard}: a shard holds 1 or more images')
    listing = read_class_folders(source) if with_label else read_folder(source)
    folder = _empty_folder(out_dir)
    order = np.random.default_rng(seed).permutation(len(listing.paths))
    shards = []
    for first in range(0, len(order), images_per_shard):
        chosen = order[first : first + images_per_shard]
        labels = [None] * len(chosen) if listing.labels is None else listing.labels[chosen].tolist()
        paths = (Path(source) / os.fsdecode(name) for name in listing.paths.take(chosen))
        members = list(zip(paths, labels, strict=True))
        shards.append(folder / f'{len(shards):06d}.tar')
        _write_shard(shards[-1], first, members)
    if with_label:
        (folder / 'classes.txt').write_text('\n'.join(listing.classes) + '\n', encoding='utf-8')
    return shards


def _empty_folder(path: str | Path) -> Path:
    folder = Path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f'{printable(folder)} exists and is not an empty folder: choose another one for the shards')
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_shard(path: Path, first: int, images: list[tuple[Path, int | None]]) -> None:
    """Under another name until it is whole, so that an interrupted run leaves no shard that is cut short."""
    partial = path.with_suffix('.partial')
    with tarfile.open(partial, 'w') as tar:
        for number, (image, label) in enumerate(images, start=first):
            key = f'{number:09d}'
            _add(tar, key + os.path.splitext(image.name)[1].lower(), image.read_bytes())
            if label is not None:
                _add(tar, f'{key}.cls', str(label).encode())
    partial.rename(path)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
