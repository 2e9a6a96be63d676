"""Copies of a network's matrices in the precision of autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

# Layers whose weights and biases autocast casts. Prototypes are cast separately, by the loss.
CAST_LAYERS = (nn.Linear, nn.Conv2d)


class LowPrecisionCopies:
    """bf16 copies of the parameters without gradients, which autocast would cast one by one at each use.

    They are refreshed at every use in one operation, so they are never stale, and are bit-identical to those of autocast.
    State dicts and averages only see the original parameters.

    Args:
        network: Without gradients.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.layers: list[nn.Linear | nn.Conv2d] = []
        self.copies: list[Tensor] = []

    def parameters(self) -> list[Tensor]:
        """The parameters to copy.

        Raises:
            ValueError: They are sharded.
        """
        if not self.layers:  # cached, since the search takes longer than everything else
            self.layers = [module for module in self.network.modules() if isinstance(module, CAST_LAYERS)]
        parameters = [p for layer in self.layers for p in (layer.weight, layer.bias) if p is not None]
        if any(isinstance(parameter, DTensor) for parameter in parameters):
            raise ValueError('teacher_copies=True cannot be combined with sharding: remove one of them')
        return [parameter for parameter in parameters if parameter.dtype == torch.float32]  # autocast does not cast float64

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Context in which the network uses the copies; no effect without bf16 autocast on its device."""
        parameters = self.parameters()
        if not parameters or not casts_to_bf16(parameters[0].device):
            yield
            return
        masters = [parameter.data for parameter in parameters]
        if not all(map(fits, self.copies, masters)) or len(self.copies) != len(masters):
            self.copies = [torch.empty_like(master, dtype=torch.bfloat16) for master in masters]
        torch._foreach_copy_(self.copies, masters)
        try:
            for parameter, copy in zip(parameters, self.copies, strict=True):
                parameter.data = copy
            yield
        finally:
            for parameter, master in zip(parameters, masters, strict=True):
                parameter.data = master


def casts_to_bf16(device: torch.device) -> bool:
    return torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.bfloat16


def fits(copy: Tensor, master: Tensor) -> bool:
    """Whether an existing copy can be reused: models may move between devices."""
    return copy.shape == master.shape and copy.device == master.device
