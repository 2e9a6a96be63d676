"""Feature extraction over all processes.

A run evaluates with its own loader (:func:`extract_shard`), whose sampler may shuffle and repeats images to give all
processes equal numbers; commands evaluate chosen images of a data set (:func:`extract`), of which each process reads a
contiguous part. Both use :func:`feature_batches`, one report of unreadable images, and :func:`_shared_out`.

Shape legend: B images of a batch, N of all processes, n of this one, D channels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine import dist
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mmadclr.annotations import MaybeNone
from mmadclr.datasets.image_dataset import ImageDataset
from mmadclr.datasets.loader_workers import outlive_signals
from mmadclr.datasets.loading import collate_samples
from mmadclr.distributed.agreement import together
from mmadclr.evaluation.feature_shards import Shard, even_share, gather_rows, gather_uneven, share
from mmadclr.evaluation.frozen import Encoder, frozen
from mmadclr.evaluation.image_account import ImageAccount, Images
from mmadclr.evaluation.rows import FeatureRows, FeatureSet

DTYPES = ('float16', 'float32')
LOG_SECONDS = 30.0
NO_IMAGE = -1  # index of an image to encode but not keep


class Loading(NamedTuple):
    """How images are read: ``batch_size`` and ``num_workers`` per process, and the total limit of ``unreadable`` images."""

    batch_size: int = 128
    num_workers: int = 0
    unreadable: int = 100


class Batch(NamedTuple):
    """``outputs``: (B, ...) of the model, for the images ``indices`` (B,), which are on the CPU.

    ``masks``: (B, S, S) on the device of the outputs; None without masks. ``unreadable``: messages about skipped images.
    ``lost``: information not in the pixels, see :class:`mmadclr.datasets.accounts.LostAccount`.
    """

    outputs: Tensor
    indices: Tensor
    masks: Tensor | MaybeNone
    unreadable: list[str]
    lost: list[tuple[str, str]]


def in_order(dataset: Dataset, indices: np.ndarray, batch_size: int, num_workers: int) -> DataLoader:
    """A loader of the images ``indices`` (n,) in this order."""
    loader = DataLoader(
        dataset,
        batch_size,
        sampler=indices.tolist(),
        num_workers=num_workers,
        collate_fn=collate_samples,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # otherwise every pass would draw a seed from the global generator
    )
    return outlive_signals(loader)


def feature_batches(
    model: Encoder, loader: DataLoader, asked: np.ndarray | None = None, mode: str = 'tensor'
) -> Iterator[Batch]:
    """Runs a model over the batches of a loader.

    Args:
        model: Called with the output of its ``data_preprocessor`` and ``mode``; returns a tensor (B, ...).
        loader: Of an ``ImageDataset`` or similar, in batches of ``collate_samples``.
        asked: (n,) the images of a loader :func:`in_order`, or ``NO_IMAGE``: others are dropped. By default all are kept,
            so that an image may occur twice: as itself and as the replacement of an unreadable one.
        mode: ``'tensor'`` or ``'patches'``.
    """
    size: int | MaybeNone = loader.batch_size
    wanted = repeat(None) if asked is None else np.split(asked, range(size, len(asked), size))
    for data, here in zip(loader, wanted, strict=asked is not None and len(asked) > 0):
        masks, indices = data.pop('mask', None), data['index']
        with torch.no_grad():
            outputs = model(**model.data_preprocessor(data, False), mode=mode)
        masks = None if masks is None else masks.to(outputs.device)
        if here is not None:
            # The data set replaces an unreadable image by the next one, which is read at its own index anyway.
            kept = indices == torch.from_numpy(here)
            indices, kept = indices[kept], kept.to(outputs.device)
            outputs, masks = outputs[kept], None if masks is None else masks[kept]
        yield Batch(outputs, indices, masks, data['unreadable'], data['lost'])


class Progress:
    """Logs the progress of a process from time to time.

    Args:
        total: Number of its images.
        where: Name of the images in messages.
    """

    def __init__(self, total: int, where: object) -> None:
        self.total, self.where, self.done = total, where, 0
        self.started = self.logged = time.monotonic()

    def over(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Passes the batches through and counts them."""
        for batch in batches:
            self.done += len(batch.indices) + len(batch.unreadable)
            now = time.monotonic()
            if now - self.logged >= LOG_SECONDS:
                self.logged = now
                rate = self.done / (now - self.started)
                left = (self.total - self.done) / rate / 60
                message = f'{self.where}: {self.done} of {self.total} images, {rate:.0f} images/s, {left:.0f} min left'
                print_log(message, 'current')
            yield batch


def to_dtype(features: Tensor, dtype: str) -> np.ndarray:
    """Features (B, D) as an array.

    Raises:
        ValueError: They are not finite, or overflow ``dtype``.
    """
    with np.errstate(over='ignore'):
        array = features.cpu().numpy().astype(dtype)
    if not np.isfinite(array).all():
        reason = 'are NaN or infinite' if not features.isfinite().all() else f'are too large for {dtype}: use float32'
        raise ValueError(f'features {reason}')
    return array


def extract_shard(
    model: nn.Module,
    loader: DataLoader,
    max_unreadable: int = 100,
    keep: Callable[[Tensor], Tensor] | None = None,
) -> Shard:
    """Features of a loader's labeled data set: every process keeps the ones it computed; ``full()`` gathers them.

    Works with any number of processes, any order of images and any mode of the model; images that the
    sampler repeats to even out the processes count once. Unreadable images are logged and excluded from N.

    Args:
        model: See :func:`feature_batches`; may be wrapped, or training.
        loader: Over all images.
        max_unreadable: Maximum number of unreadable images.
        keep: Converts the features of a batch for storage; by default they are stored unchanged.

    Raises:
        ValueError: The data set has no labels, or the sampler skipped images.
        UnreadableImageError: More than ``max_unreadable`` images cannot be read.
    """
    dataset: Any = loader.dataset
    if dataset.labels is None:
        raise ValueError(f'{dataset.data_root}: evaluation needs labels; set with_label=True for a labeled data set')
    with frozen(model) as encoder:
        part = _pass(feature_batches(encoder, loader), dataset, max_unreadable, keep or (lambda features: features))
    missing = len(dataset) - part.left_out - len(part.indices)
    if missing:
        raise ValueError(f'{missing} of {len(dataset)} images were skipped: use drop_last=False for evaluation')
    rows, indices = part.rows.to(part.device), part.indices.to(part.device)
    labels = torch.tensor(dataset.labels, device=part.device)  # copied, since they may be memory-mapped read-only
    return Shard(part.features, rows, labels[indices])


def extract(
    model: Encoder,
    dataset: ImageDataset,
    loading: Loading,
    dtype: str = 'float16',
    indices: np.ndarray | None = None,
    sharded: bool = False,
) -> FeatureSet:
    """Features of a labeled data set in memory; every process gets all of them, or keeps its own if ``sharded``.

    Args:
        model: See :func:`feature_batches`.
        dataset: With ``labels`` and ``metainfo``.
        loading: See there.
        dtype: ``'float16'`` or ``'float32'``.
        indices: Ascending; all images by default.
        sharded: Each process keeps only the features of the images that it read.

    Raises:
        UnreadableImageError: More images than ``loading.unreadable`` cannot be read.
        ValueError: The features overflow the dtype, or no image can be read.
    """
    chosen = share(np.arange(len(dataset)) if indices is None else indices)
    part = _extracted(model, dataset, loading, dtype, chosen, chosen)
    kept = part.indices.numpy()
    if sharded and len(kept):
        held, rows = part.rows.numpy(), FeatureRows([part.features.numpy()], may_be_empty=True)
    else:
        held, rows = None, FeatureRows([gather_rows(part.features, part.rows, len(kept)).numpy()])
    return FeatureSet(rows, dataset.labels[kept], kept, tuple(dataset.metainfo['classes']), held)


def extract_rows(
    model: Encoder, dataset: ImageDataset, loading: Loading, indices: np.ndarray | None = None
) -> tuple[Tensor, np.ndarray]:
    """Features (N, ...) of a data set with or without labels in single precision, and the images (N,), on every process.

    Every process calls the model equally often, as a model sharded over processes requires.

    Args:
        model, dataset, loading, indices: See :func:`extract`.

    Raises:
        UnreadableImageError: More images than ``loading.unreadable`` cannot be read.
        ValueError: The features are not finite.
    """
    chosen = np.arange(len(dataset)) if indices is None else indices
    places, counts = even_share(len(chosen))
    part = _extracted(model, dataset, loading, 'float32', chosen[places], np.where(counts, chosen[places], NO_IMAGE))
    return gather_rows(part.features, part.rows, len(part.indices)), part.indices.numpy()


def _extracted(
    model: Encoder, dataset: ImageDataset, loading: Loading, dtype: str, read: np.ndarray, asked: np.ndarray
) -> _Part:
    """Features of the images ``read`` (n,) by this process, of which those in ``asked`` (n,) are kept."""
    loader = in_order(dataset, read, loading.batch_size, loading.num_workers)
    batches = Progress(len(read), dataset.data_root).over(feature_batches(model, loader, asked))
    return _pass(batches, dataset, loading.unreadable, lambda features: torch.from_numpy(to_dtype(features, dtype)))


class _Part(NamedTuple):
    """``features``: (n, ...) of this process. ``rows``: (n,) their positions among the images ``indices`` (N,) of all.

    ``left_out``: number of unreadable images. ``device``: of the model.
    """

    features: Tensor
    rows: Tensor
    indices: Tensor
    left_out: int
    device: torch.device


def _pass(batches: Iterable[Batch], dataset: Images, limit: int, keep: Callable[[Tensor], Tensor]) -> _Part:
    """All features of a pass in memory, after reporting unreadable images; each image on one process."""
    account = ImageAccount()

    def mine() -> list[tuple[Tensor, Tensor, torch.device]]:
        return [(keep(batch.outputs), batch.indices, batch.outputs.device) for batch in account.over(batches)]

    encoded = together(mine)
    left_out = len(account.report(dataset, limit))
    own, rows, indices = _shared_out(torch.cat([read for _, read, _ in encoded] or [torch.zeros(0, dtype=torch.int64)]))
    device = encoded[0][2] if encoded else torch.device('cpu')
    # A process without images takes part in the exchange of features, and needs their shape and dtype.
    forms = dist.all_gather_object((tuple(encoded[0][0].shape[1:]), encoded[0][0].dtype) if encoded else None)
    shape, dtype = next(filter(None, forms), ((0,), torch.float32))
    features = torch.cat([part for part, _, _ in encoded] or [torch.zeros((0, *shape), dtype=dtype)])
    del encoded  # frees memory before the reordered copy
    if len(own) < len(features) or not torch.equal(own, torch.arange(len(own))):
        features = features[own.to(features.device)]
    return _Part(features, rows, indices, left_out, device)


def _shared_out(indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Assigns images read by several processes to the first one.

    Args:
        indices: (m,) images as read by this process.

    Returns:
        Which of them (n,) belong to this process, by ascending index; their positions (n,) among all images; and all (N,).
    """
    parts = gather_uneven(indices)
    full, inverse = torch.cat(parts).unique(return_inverse=True)
    first = torch.full_like(full, len(inverse)).scatter_reduce_(0, inverse, torch.arange(len(inverse)), 'amin')
    own = first - sum(map(len, parts[: dist.get_rank()]))
    rows = ((own >= 0) & (own < len(indices))).nonzero().flatten()
    return own[rows], rows, full
