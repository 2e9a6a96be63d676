"""Sharded tensors (FSDP2): local parts, norms over all shards, and full state dicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine import dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only


@torch.no_grad()
def local_tensors(tensors: Sequence[Tensor]) -> list[Tensor]:
    """This process's shard of every tensor, sharing its memory; the full tensor if it is not sharded."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


@torch.no_grad()
def full_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """L2 norm of every tensor over all its shards: one all-reduce for all of them, none without shards.

    Either all of the tensors are sharded, or none.
    """
    norms = torch._foreach_norm(local_tensors(tensors))
    if not any(isinstance(tensor, DTensor) for tensor in tensors):
        return list(norms)
    squares = torch.stack(norms).square()
    dist.all_reduce(squares)
    return list(squares.sqrt().unbind())


@contextmanager
def full_states(model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Context in which state dicts of process 0 hold full tensors, in the layout of an unsharded run.

    Tensors are gathered on entry, a collective call; inside the context no further communication is needed.
    """
    model_state, optimizer_state = _gathered(model.state_dict()), _gathered(optimizer.state_dict())
    handles = (
        model.register_state_dict_post_hook(lambda module, state, *_: state.update(model_state)),
        optimizer.register_state_dict_post_hook(lambda _, state: {**state, **optimizer_state}),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _gathered(state: Mapping) -> dict:
    """Gathers full tensors one by one to the CPU of process 0; the other processes keep their shards."""

    def gather(tensor: DTensor) -> Tensor:
        full = tensor.full_tensor()
        return full.cpu() if dist.is_main_process() else tensor

    return tree_map_only(DTensor, gather, dict(state))


def cut_optimizer_state(optimizer: Optimizer, state: dict) -> dict:
    """Pre-hook of ``Optimizer.load_state_dict``: shards full moments like their parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
    keys = [key for group in state['param_groups'] for key in group['params']]
    like = dict(zip(keys, parameters, strict=True))
    cut = {key: {n: _cut(v, like[key]) for n, v in values.items()} for key, values in state['state'].items()}
    return {**state, 'state': cut}


def _cut(value: Any, like: Tensor) -> Any:
    """Shards a full tensor, which every process read from the file, like ``like``."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    shards = distribute_tensor(value.detach(), like.device_mesh, like.placements, src_data_rank=None)
    return shards.clone()  # a slice would keep the full tensor in memory
