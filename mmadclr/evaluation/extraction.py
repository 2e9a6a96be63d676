"""Features of chosen images of a data set: each process takes a contiguous share, and no image is repeated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from mmengine import dist
from mmengine.logging import print_log
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mmadclr.datasets.loader_workers import outlive_signals
from mmadclr.datasets.loading import collate_samples
from mmadclr.distributed.agreement import together
from mmadclr.evaluation.feature_shards import gather_rows, gather_uneven, share
from mmadclr.evaluation.features import report_lost, report_unreadable
from mmadclr.evaluation.rows import FeatureRows, FeatureSet

T = TypeVar('T')
DTYPES = ('float16', 'float32')
LOG_SECONDS = 30.0


class Loading(NamedTuple):
    """How images are read: ``batch_size`` and ``num_workers`` of each process, and how many may be ``unreadable`` in all."""

    batch_size: int = 128
    num_workers: int = 0
    unreadable: int = 100


class Batch(NamedTuple):
    """``outputs``: of the model, for the images ``indices`` (B,). ``unreadable``: messages about images left out.

    ``lost``: what of the images is not in their pixels, see :class:`mmadclr.datasets.accounts.LostAccount`.
    """

    outputs: Any
    indices: np.ndarray
    unreadable: list[str]
    lost: list[tuple[str, str]]


def feature_batches(model: nn.Module, dataset: Dataset, indices: np.ndarray, loading: Loading) -> Iterator[Batch]:
    """Runs a model over the images ``indices`` in their order.

    Args:
        model: Called with ``images`` of its ``data_preprocessor``; gives a tensor (B, ...).
        dataset: An ``ImageDataset``, or one like it.
        indices: (n,).
        loading: See there.
    """
    loader = DataLoader(
        dataset,
        loading.batch_size,
        sampler=indices.tolist(),
        num_workers=loading.num_workers,
        collate_fn=collate_samples,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else every pass would draw a seed from the global one
    )
    outlive_signals(loader)
    wanted = np.split(indices, np.arange(loading.batch_size, len(indices), loading.batch_size))
    for asked, data in zip(wanted, loader, strict=len(indices) > 0):
        # The data set replaces an image it cannot read by the next one, which comes in its own place anyway.
        kept = data['index'].numpy() == asked
        with torch.no_grad():
            outputs = model(**model.data_preprocessor(data, False))
        yield Batch(outputs[torch.from_numpy(kept).to(outputs.device)], asked[kept], data['unreadable'], data['lost'])


class Progress:
    """Says now and then how far a process has come.

    Args:
        total: Number of its images.
        where: What messages call them.
    """

    def __init__(self, total: int, where: object) -> None:
        self.total, self.where, self.done = total, where, 0
        self.started = self.logged = time.monotonic()

    def over(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, which are counted on the way."""
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


def to_dtype(features: torch.Tensor, dtype: str) -> np.ndarray:
    """Features (B, D) on the CPU.

    Raises:
        ValueError: They do not fit into 16 bits.
    """
    with np.errstate(over='ignore'):
        array = features.cpu().numpy().astype(dtype)
    if not np.isfinite(array).all():
        reason = 'are NaN or infinite' if not features.isfinite().all() else f'are too large for {dtype}: use float32'
        raise ValueError(f'features {reason}')
    return array


def extract(
    model: nn.Module,
    dataset: Dataset,
    loading: Loading,
    dtype: str = 'float16',
    indices: np.ndarray | None = None,
    sharded: bool = False,
) -> FeatureSet:
    """Features of a labeled data set in memory; every process gets all of them, or keeps its own ``sharded``.

    Args:
        model: See :func:`feature_batches`.
        dataset: With ``labels`` and ``metainfo``.
        loading: See there.
        dtype: ``'float16'`` or ``'float32'``.
        indices: Ascending; all images by default.
        sharded: Each process holds the features of those images alone that it has read.

    Raises:
        UnreadableImageError: More images than ``loading.unreadable`` cannot be read.
        ValueError: The features do not fit the type, or no image can be read.
    """
    indices = np.arange(len(dataset)) if indices is None else indices

    def mine() -> tuple:
        chosen = share(indices)
        batches = Progress(len(chosen), dataset.data_root).over(feature_batches(model, dataset, chosen, loading))
        return [(to_dtype(batch.outputs, dtype), batch.indices, batch.unreadable, batch.lost) for batch in batches]

    encoded = together(mine)
    report_unreadable([message for batch in encoded for message in batch[2]], dataset, loading.unreadable)
    report_lost(batch[3] for batch in encoded)
    own, kept, held = _joined([batch[:2] for batch in encoded], dtype)
    if sharded and len(kept):
        rows = FeatureRows([own], may_be_empty=True)
    else:
        held, rows = None, FeatureRows([gather_rows(torch.from_numpy(own), torch.from_numpy(held), len(kept)).numpy()])
    return FeatureSet(rows, dataset.labels[kept], kept, tuple(dataset.metainfo['classes']), held)


def _joined(encoded: list[tuple[np.ndarray, np.ndarray]], dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (n, D) of this process, the images (N,) of all, and the places (n,) of its own among those."""
    indices = np.concatenate([kept for _, kept in encoded] or [np.zeros(0, np.int64)])
    parts = [part.numpy() for part in gather_uneven(torch.from_numpy(indices))]
    widths = dist.all_gather_object(encoded[0][0].shape[1:] if encoded else None)
    shape = next((width for width in widths if width is not None), (0,))
    features = np.concatenate([features for features, _ in encoded] or [np.zeros((0, *shape), dtype)])
    start = sum(map(len, parts[: dist.get_rank()]))
    return features, np.concatenate(parts), np.arange(start, start + len(indices))
