"""Features of a whole data set, over all processes."""

from __future__ import annotations

import torch
from mmengine import dist
from mmengine.model import is_model_wrapper
from torch import Tensor, nn
from torch.utils.data import DataLoader


class RawPixels(nn.Module):
    """The normalised pixels themselves as features (B, 3*H*W): the baseline any representation has to beat."""

    def __init__(self, data_preprocessor: nn.Module) -> None:
        super().__init__()
        self.data_preprocessor = data_preprocessor

    def forward(self, images: Tensor, mode: str = 'tensor') -> Tensor:
        return images.flatten(1)


@torch.no_grad()
def extract_features(model: nn.Module, loader: DataLoader) -> tuple[Tensor, Tensor]:
    """Features (N, D) and labels (N,) of every image of a labelled loader, in the order of the data set.

    ``model`` takes ``data_preprocessor`` output with ``mode='tensor'``. Works with any number of processes; images that
    the sampler repeats to even out the processes count once, and every process gets the whole result.

    Raises:
        ValueError: The data set has no labels, or the sampler left images out.
    """
    model = model.module if is_model_wrapper(model) else model
    was_training = model.training
    model.eval()
    features, labels, indices = [], [], []
    for data in loader:
        if 'label' not in data:
            raise ValueError(f'{loader.dataset.data_root}: evaluation needs labels; set with_label=True on a labelled set')
        features.append(model(**model.data_preprocessor(data, False), mode='tensor'))
        labels.append(data['label'])
        indices.append(data['index'])
    model.train(was_training)
    device = features[0].device
    return _in_order(torch.cat(features), torch.cat(labels).to(device), torch.cat(indices).to(device), len(loader.dataset))


def _in_order(features: Tensor, labels: Tensor, indices: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Gathers the parts of all processes and puts row i in place i, dropping repeats."""
    features, labels, indices = (torch.cat(dist.all_gather(part.contiguous())) for part in (features, labels, indices))
    seen = len(indices.unique())
    if seen != total:
        raise ValueError(f'{total - seen} of {total} images were left out: use drop_last=False for evaluation')
    position = torch.empty(total, dtype=torch.int64, device=indices.device)
    position[indices] = torch.arange(len(indices), device=indices.device)
    return features[position], labels[position]
