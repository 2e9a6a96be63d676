"""Features of a whole data set, over all processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from mmengine import dist
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmadclr.datasets.accounts import LostAccount
from mmadclr.datasets.image_dataset import UnreadableImageError
from mmadclr.distributed.wrappers import unwrapped
from mmadclr.evaluation.feature_shards import Shard, gather_rows, gather_uneven


class RawPixels(nn.Module):
    """The normalized pixels themselves as features: the baseline any representation has to beat.

    Of whole images (B, 3*H*W), or with ``mode='patches'`` of patches (B, N, 3*P*P).
    """

    def __init__(self, data_preprocessor: nn.Module, patch_size: int = 16) -> None:
        super().__init__()
        self.data_preprocessor = data_preprocessor
        self.patch_size = patch_size

    def forward(self, images: Tensor, mode: str = 'tensor') -> Tensor:
        if mode == 'patches':
            return F.unfold(images, self.patch_size, stride=self.patch_size).transpose(1, 2)
        return images.flatten(1)


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model itself, for a while in evaluation mode and without gradients."""
    model = unwrapped(model)
    was_training = model.training
    model.eval()
    try:
        # Blocks compiled for training are compiled for its batches alone.
        with torch.no_grad(), torch.compiler.set_stance('force_eager'):
            yield model
    finally:
        model.train(was_training)


def extract_features(model: nn.Module, loader: DataLoader, max_unreadable: int = 100) -> tuple[Tensor, Tensor]:
    """Features (N, D) and labels (N,) of a labeled data set, in its order, on every process.

    ``model`` takes ``data_preprocessor`` output with ``mode='tensor'``. Works with any number of processes; images that
    the sampler repeats to even out the processes count once. Images that cannot be read are logged and left out of N.

    Raises:
        ValueError: The data set has no labels, or the sampler left images out.
        UnreadableImageError: More than ``max_unreadable`` images cannot be read.
    """
    return extract_shard(model, loader, max_unreadable).whole()


def extract_shard(
    model: nn.Module,
    loader: DataLoader,
    max_unreadable: int = 100,
    keep: Callable[[Tensor], Tensor] | None = None,
) -> Shard:
    """As :func:`extract_features`, but every process holds those features alone that it made.

    Args:
        model, loader, max_unreadable: See there.
        keep: Gives the form features are held in, for the features of a batch.
    """
    dataset = loader.dataset
    if dataset.labels is None:
        raise ValueError(f'{dataset.data_root}: evaluation needs labels; set with_label=True on a labeled set')
    features, rows, indices = _own_features(model, loader, max_unreadable, keep=keep)
    labels = torch.tensor(dataset.labels, device=indices.device)  # a copy: they may be mapped read-only
    return Shard(features, rows, labels[indices])


def gather_features(
    model: nn.Module, loader: DataLoader, max_unreadable: int = 100, mode: str = 'tensor'
) -> tuple[Tensor, Tensor]:
    """As :func:`extract_features`, for unlabeled sets and any ``mode`` of the model: features (N, ...) and indices (N,)."""
    features, rows, indices = _own_features(model, loader, max_unreadable, mode)
    return gather_rows(features, rows, len(indices)), indices


def _own_features(
    model: nn.Module,
    loader: DataLoader,
    max_unreadable: int,
    mode: str = 'tensor',
    keep: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Features (n, ...) of this process, their places (n,) among the images of all, and the indices (N,) of those."""
    dataset = loader.dataset
    features, indices, unreadable, lost = [], [], [], []
    with frozen(model) as model:
        for data in loader:
            found = model(**model.data_preprocessor(data, False), mode=mode)
            features.append(found if keep is None else keep(found))
            indices.append(data['index'])
            unreadable += data['unreadable']
            lost.append(data['lost'])
        device = found.device
    left_out = report_unreadable(unreadable, dataset, max_unreadable)
    report_lost(lost)
    own, rows, indices = _of_this_process(torch.cat(indices))
    missing = len(dataset) - left_out - len(indices)
    if missing:
        raise ValueError(f'{missing} of {len(dataset)} images were left out: use drop_last=False for evaluation')
    features = torch.cat(features)
    if len(own) < len(features) or not torch.equal(own, torch.arange(len(own))):
        features = features[own.to(features.device)]
    return features, rows.to(device), indices.to(device)


def _of_this_process(indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shares out the images that several processes have read: to the first that has.

    Args:
        indices: (m,) images as this process read them.

    Returns:
        Which of them (n,) fall to this process, by rising index; their places (n,) among all images; and all of these (N,).
    """
    parts = gather_uneven(indices)
    whole, inverse = torch.cat(parts).unique(return_inverse=True)
    first = torch.full_like(whole, len(inverse)).scatter_reduce_(0, inverse, torch.arange(len(inverse)), 'amin')
    own = first - sum(map(len, parts[: dist.get_rank()]))
    rows = ((own >= 0) & (own < len(indices))).nonzero().flatten()
    return own[rows], rows, whole


def report_unreadable(messages: list[str], dataset, limit: int) -> int:
    """Logs every unreadable image of any process once and returns their number.

    Raises:
        UnreadableImageError: There are more than ``limit``.
    """
    distinct = sorted({message for part in dist.all_gather_object(messages) for message in part})
    if len(distinct) > limit:
        raise UnreadableImageError(
            f'{len(distinct)} of {len(dataset)} images below {dataset.data_root} cannot be read, the first: {distinct[0]}'
        )
    for message in distinct:
        print_log(f'unreadable image, left out of the evaluation: {message}', 'current', logging.WARNING)
    return len(distinct)


def report_lost(batches: Iterable[Iterable[tuple[str, str]]]) -> None:
    """Logs what images of any process lost on the way to 8-bit RGB, a line and a count for each kind."""
    for line in lost_lines(batches):
        print_log(line, 'current', logging.WARNING)


def lost_lines(batches: Iterable[Iterable[tuple[str, str]]]) -> list[str]:
    """The lines, the same on all processes, from the ``lost`` of the batches of this one."""
    account = LostAccount()
    for lost in batches:
        account.add(lost)
    return account.of_all_processes().lines()
