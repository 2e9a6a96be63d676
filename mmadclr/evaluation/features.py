"""Features of a whole data set, over all processes."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from mmengine import dist
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmadclr.datasets.accounts import LostAccount
from mmadclr.datasets.image_dataset import UnreadableImageError
from mmadclr.models.wrappers import unwrapped


class RawPixels(nn.Module):
    """The normalised pixels themselves as features: the baseline any representation has to beat.

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


@torch.no_grad()
def extract_features(model: nn.Module, loader: DataLoader, max_unreadable: int = 100) -> tuple[Tensor, Tensor]:
    """Features (N, D) and labels (N,) of a labelled data set, in its order.

    ``model`` takes ``data_preprocessor`` output with ``mode='tensor'``. Works with any number of processes; images that
    the sampler repeats to even out the processes count once, and every process gets the whole result. Images that
    cannot be read are logged and left out of N.

    Raises:
        ValueError: The data set has no labels, or the sampler left images out.
        UnreadableImageError: More than ``max_unreadable`` images cannot be read.
    """
    dataset = loader.dataset
    if dataset.labels is None:
        raise ValueError(f'{dataset.data_root}: evaluation needs labels; set with_label=True on a labelled set')
    features, indices = gather_features(model, loader, max_unreadable)
    return features, torch.tensor(dataset.labels, device=features.device)[indices]  # a copy: they may be mapped read-only


@torch.no_grad()
@torch.compiler.set_stance('force_eager')  # blocks compiled for training are compiled for its batches alone
def gather_features(
    model: nn.Module, loader: DataLoader, max_unreadable: int = 100, mode: str = 'tensor'
) -> tuple[Tensor, Tensor]:
    """As :func:`extract_features`, for unlabelled sets and any ``mode`` of the model: features (N, ...) and indices (N,)."""
    dataset, model = loader.dataset, unwrapped(model)
    was_training = model.training
    model.eval()
    features, indices, unreadable, lost = [], [], [], []
    for data in loader:
        features.append(model(**model.data_preprocessor(data, False), mode=mode))
        indices.append(data['index'])
        unreadable += data['unreadable']
        lost.append(data['lost'])
    model.train(was_training)
    left_out = report_unreadable(unreadable, dataset, max_unreadable)
    report_lost(lost)
    features = torch.cat(features)
    features, indices = _in_order(features, torch.cat(indices).to(features.device))
    missing = len(dataset) - left_out - len(indices)
    if missing:
        raise ValueError(f'{missing} of {len(dataset)} images were left out: use drop_last=False for evaluation')
    return features, indices


def _in_order(features: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of all processes by ascending index of their image, each image once."""
    features, indices = (torch.cat(dist.all_gather(part.contiguous())) for part in (features, indices))
    unique, rows = indices.unique(return_inverse=True)
    position = torch.empty_like(unique)
    position[rows] = torch.arange(len(indices), device=indices.device)
    return features[position], unique


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
