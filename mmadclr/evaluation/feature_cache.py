"""Feature cache on disk: written once by all processes, then memory-mapped by every evaluation.

A cache is a folder: ``cache.json`` (fingerprint, shards, class names, messages about images), ``labels.npy``
and ``indices.npy`` (N,), and shards ``features-<first image>.npy`` (n, D) in the order of the data set.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from mmengine import dist
from mmengine.logging import print_log

import mmadclr
from mmadclr.datasets.image_dataset import ImageDataset
from mmadclr.distributed.agreement import together
from mmadclr.evaluation.extraction import Loading, Progress, feature_batches, in_order, to_dtype
from mmadclr.evaluation.feature_shards import share
from mmadclr.evaluation.frozen import Encoder
from mmadclr.evaluation.image_account import ImageAccount
from mmadclr.evaluation.rows import FeatureRows, FeatureSet
from mmadclr.files import atomic_path
from mmadclr.hub.opening import OpenedBackbone

INDEX = 'cache.json'
READING, PRECISION = 'reading (--read)', 'precision (--precision)'
BEFORE = {READING: 'pillow', PRECISION: 'fp32'}  # defaults for caches that do not record them
SHARD_ROWS = 65_536  # per shard; a process holds one in memory during extraction


def fingerprint(opened: OpenedBackbone, dataset: ImageDataset, features: str, dtype: str, precision: str = 'fp32') -> dict:
    """Everything that determines features, keyed by descriptions used in messages.

    The backbone is identified by its weights, not its file name; images by their names, not their contents.

    Args:
        opened: The backbone.
        dataset: With ``ResizeCenterCrop``.
        features, dtype: Kind and dtype of the stored features.
        precision: Of the backbone, see ``FeatureExtractor``.
    """
    weights, names = hashlib.sha256(), hashlib.sha256()
    for name, tensor in sorted(opened.model.state_dict().items()):
        weights.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    for index in range(len(dataset)):
        names.update(dataset.source.name(index).encode() + b'\n')
    names.update(dataset.labels.tobytes())
    found = {
        'weights of the backbone': weights.hexdigest(),
        'settings of the backbone': opened.settings,
        'mean and std': [opened.mean, opened.std],
        'features': features,
        'type': dtype,
        'folder of images': str(dataset.data_root.resolve() if isinstance(dataset.data_root, Path) else dataset.data_root),
        'number of images': len(dataset),
        'list of images and labels': names.hexdigest(),
        'resize and crop': [dataset.transform.resize, dataset.transform.size],
        READING: dataset.transform.backend,
        PRECISION: precision,
        'versions': {'mmadclr': mmadclr.__version__, 'torch': torch.__version__},
    }
    if dataset.pixels[:2] != (None, None):
        found['range of values and bands'] = [dataset.pixels.value_range, dataset.pixels.bands]
    return json.loads(json.dumps(found))  # normalized to how it is read back


def cached_features(
    folder: str | Path,
    model: Encoder,
    dataset: ImageDataset,
    expected: dict,
    loading: Loading,
    refresh: bool = False,
) -> FeatureSet:
    """Features of a full labeled data set from a cache, which is created if it does not exist.

    Args:
        folder: For this image set only, visible to all processes.
        model: See :func:`mmadclr.evaluation.extraction.feature_batches`.
        dataset: With ``labels`` and ``metainfo``.
        expected: The fingerprint; its ``type`` is the dtype of the shards.
        loading: How images are read.
        refresh: Recreate an existing cache.

    Raises:
        ValueError: The folder contains other features, or something else.
        UnreadableImageError: More images than ``loading.unreadable`` cannot be read.
    """
    folder = Path(folder)
    # One process decides for all: they may see different states of a folder on a network file system.
    found = dist.all_gather_object(together(lambda: _look(folder)))[0]
    if found is False:
        raise ValueError(f'{folder} is not a feature cache (it has no {INDEX}): choose another folder')
    if refresh or found is None:
        write_cache(folder, model, dataset, expected, loading)
    return together(lambda: read_cache(folder, expected))


def _look(folder: Path) -> bool | None:
    """Whether a folder is a cache; None if it does not exist."""
    return (folder / INDEX).is_file() if folder.exists() else None


def read_cache(folder: str | Path, expected: dict) -> FeatureSet:
    """The features in a cache, memory-mapped; unreadable images are logged again.

    Raises:
        ValueError: The cache contains other features (states the difference), or shards are missing.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / INDEX).read_text())
        parts = [_open_shard(folder / name, rows) for name, rows in about['shards']]
        labels, indices = (np.load(folder / f'{name}.npy') for name in ('labels', 'indices'))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f'{folder} is damaged ({error}): extract the features again (--refresh)') from error
    _compare(folder, about['fingerprint'], expected)
    for message in about['unreadable']:
        print_log(f'unreadable image, excluded from the evaluation: {message}', 'current')
    for line in about.get('lost', ()):
        print_log(line, 'current', logging.WARNING)
    return FeatureSet(FeatureRows(parts), labels, indices, tuple(about['classes']))


def _compare(folder: Path, found: dict, expected: dict) -> None:
    found = {**BEFORE, **found}
    for item in {**expected, **found}:
        if found.get(item) != expected.get(item):
            there, asked = (str(values.get(item))[:40] for values in (found, expected))  # shortens digests
            raise ValueError(
                f'{folder} contains other features: {item} differ (cached: {there}, requested: {asked}). '
                'Choose another folder, or extract them again (--refresh)'
            )


def write_cache(folder: Path, model: Encoder, dataset: ImageDataset, expected: dict, loading: Loading) -> None:
    """Extracts the features of a data set into a folder, which gets its name when complete.

    Raises:
        UnreadableImageError, ValueError: See :func:`cached_features`.
    """
    with ExitStack() as stack:
        temporary = Path(dist.all_gather_object(together(lambda: _open_temporary(stack, folder)))[0])
        account = ImageAccount()
        found = together(lambda: list(_write_shards(temporary, model, dataset, expected['type'], loading, account)))
        found = [shard for part in dist.all_gather_object(found) for shard in part]
        unreadable = account.report_unreadable(dataset, loading.unreadable)
        messages = dict(unreadable=unreadable, lost=account.lost_lines())
        together(lambda: _write_index(temporary, dataset, expected, found, messages))
        together(stack.close)  # renames the folder


def _open_temporary(stack: ExitStack, folder: Path) -> str | None:
    """The main process creates the folder that all write to."""
    if not dist.is_main_process():
        return None
    temporary = stack.enter_context(atomic_path(folder))
    temporary.mkdir()
    return str(temporary)


def _write_index(folder: Path, dataset: ImageDataset, expected: dict, shards: list[tuple], messages: dict) -> None:
    """Everything except the shards, by the main process."""
    if not dist.is_main_process():
        return
    indices = np.concatenate([kept for _, kept in shards])
    np.save(folder / 'indices.npy', indices)
    np.save(folder / 'labels.npy', dataset.labels[indices])
    about = dict(
        fingerprint=expected,
        shards=[(name, len(kept)) for name, kept in shards],
        classes=dataset.metainfo['classes'],
        **messages,
    )
    (folder / INDEX).write_text(json.dumps(about, indent=1) + '\n')


def _write_shards(
    folder: Path, model: Encoder, dataset: ImageDataset, dtype: str, loading: Loading, account: ImageAccount
) -> Iterator[tuple[str, np.ndarray]]:
    """Writes the shards of this process, and records its images; yields name and indices (n,) of each shard."""
    mine = share(np.arange(len(dataset)))
    progress = Progress(len(mine), dataset.data_root)
    for indices in np.split(mine, range(SHARD_ROWS, len(mine), SHARD_ROWS)):
        loader = in_order(dataset, indices, loading.batch_size, loading.num_workers)
        batches = account.over(progress.over(feature_batches(model, loader, indices)))
        encoded = [(to_dtype(batch.outputs, dtype), batch.indices.numpy()) for batch in batches]
        if not encoded:
            continue
        name = f'features-{indices[0]:09d}.npy'
        np.save(folder / name, np.concatenate([features for features, _ in encoded]))
        yield name, np.concatenate([kept for _, kept in encoded])


def _open_shard(path: Path, rows: int) -> np.ndarray:
    found = np.load(path, mmap_mode='r')
    if len(found) != rows:
        raise ValueError(f'{path} has {len(found)} rows instead of {rows}')
    return found
