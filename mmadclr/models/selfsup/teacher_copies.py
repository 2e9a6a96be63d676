"""Copies of a network's matrices in the precision of autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

# What autocast casts of a teacher: weights and biases of these. Prototypes are read by the loss, in its own way.
CAST_LAYERS = (nn.Linear, nn.Conv2d)


class LowPrecisionCopies:
    """bf16 copies of the parameters that autocast would cast one by one, and at each use, as they need no gradient.

    They are made anew whenever they take their places, in one operation for all, so there are no stale ones; to the bit they
    are those of autocast. State dicts and averages see the network's own parameters alone.

    Args:
        network: Without gradients.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.layers: list[nn.Linear | nn.Conv2d] = []
        self.copies: list[Tensor] = []

    def parameters(self) -> list[Tensor]:
        """Those to be copied.

        Raises:
            ValueError: They are sharded.
        """
        if not self.layers:  # looked for once, which takes longer than all the rest
            self.layers = [module for module in self.network.modules() if isinstance(module, CAST_LAYERS)]
        parameters = [p for layer in self.layers for p in (layer.weight, layer.bias) if p is not None]
        if any(isinstance(parameter, DTensor) for parameter in parameters):
            raise ValueError('teacher_copies=True and sharding exclude each other: remove one of them')
        return [parameter for parameter in parameters if parameter.dtype == torch.float32]  # autocast leaves float64 alone

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Meanwhile the network computes with the copies. Without bf16 autocast on its device nothing happens."""
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
    """Whether the copy of a matrix can be used again: models move between devices."""
    return copy.shape == master.shape and copy.device == master.device
