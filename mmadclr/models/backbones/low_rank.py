"""LowRankUpdates: trains a backbone by products of two small matrices that are added to the weights of its attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmadclr.registry import MODELS

LAYERS = ('qkv', 'proj')


@MODELS.register_module()
class LowRankUpdates(nn.Module):
    """``W = W0 + scale up down`` for the layers of attention, where ``up`` (out, rank) and ``down`` (rank, in) are trained.

    Hu et al., *LoRA: low-rank adaptation of large language models*, ICLR 2022. All else in the backbone is frozen, except a
    mask token. The weights of the backbone are always the sums: checkpoints, teacher and evaluation are those of a plain
    vision transformer. While a loss is computed (:meth:`in_place`) the same sums carry gradients to both factors.

    Args:
        backbone: The student's; not a part of this module.
        rank: Of the updates.
        scale: Their factor.
        first_block: Blocks before it have no updates.

    Raises:
        ValueError: ``rank`` is not between 1 and the width, or no block is left.
    """

    def __init__(self, backbone: Any, rank: int = 8, scale: float = 1.0, first_block: int = 0) -> None:
        super().__init__()
        if not 1 <= rank <= backbone.embed_dim:
            raise ValueError(f'low_rank: rank={rank} must be between 1 and the width of the backbone, {backbone.embed_dim}')
        blocks = range(first_block, len(backbone.blocks))
        if not blocks:
            raise ValueError('low_rank: all blocks are frozen, which leaves none to train: lower frozen_blocks')
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name == 'mask_token')
        self.scale = scale
        self.names = [f'blocks.{index}.attn.{name}' for index in blocks for name in LAYERS]
        self.layers = [(backbone.get_submodule(name),) for name in self.names]  # in tuples, so that they are no submodules
        shapes = [layer.weight.shape for (layer,) in self.layers]
        self.up = nn.ParameterList(torch.zeros(shape[0], rank) for shape in shapes)
        self.down = nn.ParameterList(torch.zeros(rank, shape[1]) for shape in shapes)
        for index, (layer,) in enumerate(self.layers):
            self.register_buffer(f'start{index}', layer.weight.detach().clone())

    def start(self) -> None:
        """Starts at the present weights: ``down`` is drawn, ``up`` is zero."""
        for index, (layer,) in enumerate(self.layers):
            self.get_buffer(f'start{index}').copy_(layer.weight.detach())
            nn.init.kaiming_uniform_(self.down[index], a=5**0.5)
            nn.init.zeros_(self.up[index])

    def sums(self) -> list[Tensor]:
        """The weights W of all layers, with gradients to the factors."""
        pairs = zip(self.up, self.down, strict=True)
        return [self.get_buffer(f'start{index}') + self.scale * up @ down for index, (up, down) in enumerate(pairs)]

    def named_factors(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Factors by the names of the layers that they belong to."""
        for name, up, down in zip(self.names, self.up, self.down, strict=True):
            yield from ((f'{name}.up', up), (f'{name}.down', down))

    @torch.no_grad()
    def merge(self) -> None:
        """Writes the sums into the backbone, after a step."""
        for (layer,), weight in zip(self.layers, self.sums(), strict=True):
            layer.weight.copy_(weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Context in which the layers compute with sums that carry gradients."""
        with ExitStack() as stack:
            for (layer,), weight in zip(self.layers, self.sums(), strict=True):
                stack.enter_context(_replaced_weight(layer, weight))
            yield


@contextmanager
def _replaced_weight(layer: nn.Module, weight: Tensor) -> Iterator[None]:
    kept: Any = layer._parameters
    layer._parameters = {name: parameter for name, parameter in kept.items() if name != 'weight'}
    layer.__dict__['weight'] = weight
    try:
        yield
    finally:
        del layer.__dict__['weight']
        layer._parameters = kept
