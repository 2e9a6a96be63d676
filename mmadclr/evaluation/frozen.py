"""Models for evaluation: a temporarily frozen model, or raw pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmadclr.distributed.wrappers import unwrapped


class Encoder(Protocol):
    """A model as evaluation calls it: with what its ``data_preprocessor`` makes of a batch."""

    @property
    def data_preprocessor(self) -> Callable[[dict, bool], dict]: ...

    def __call__(self, *, mode: str, **inputs: Any) -> Tensor:
        """Features of images (B, D), or with ``mode='patches'`` of patches (B, N, D)."""


class RawPixels(nn.Module):
    """The normalized pixels as features, the baseline of any representation.

    Of full images (B, 3*H*W), or with ``mode='patches'`` of patches (B, N, 3*P*P).
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
def frozen(model: nn.Module) -> Iterator[Encoder]:
    """Context in which the unwrapped model is in evaluation mode and without gradients."""
    itself = unwrapped(model)
    was_training = itself.training
    itself.eval()
    try:
        # Compiled blocks are specialized to training batches.
        with torch.no_grad(), torch.compiler.set_stance('force_eager'):
            yield itself
    finally:
        itself.train(was_training)
