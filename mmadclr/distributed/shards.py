"""Parameters in shards over the processes (FSDP2), so that larger models fit; results and checkpoints stay the same.

Every block of student and teacher is a unit of its own, gathered just before it runs. Heads are one unit each and stay
whole until the backward pass is through: the loss reads the prototypes after the head has returned.
"""

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
    """The part of every tensor that this process holds, sharing its memory; all of it where nothing is sharded."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


@torch.no_grad()
def whole_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """L2 norm of every tensor, over all of its shards: one exchange for all of them, and none without shards.

    Either all of the tensors are sharded, or none.
    """
    norms = torch._foreach_norm(local_tensors(tensors))
    if not any(isinstance(tensor, DTensor) for tensor in tensors):
        return list(norms)
    squares = torch.stack(norms).square()
    dist.all_reduce(squares)
    return list(squares.sqrt().unbind())


@contextmanager
def whole_states(model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Within it, state dicts of process 0 hold whole tensors, in the layout of a run without shards.

    They are gathered on entry, which all processes have to make together; afterwards each can work by itself.
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
    """Whole tensors on the CPU of process 0, one after the other; the others contribute and keep their shards."""

    def gather(tensor: DTensor) -> Tensor:
        whole = tensor.full_tensor()
        return whole.cpu() if dist.is_main_process() else tensor

    return tree_map_only(DTensor, gather, dict(state))


def cut_optimizer_state(optimizer: Optimizer, state: dict) -> dict:
    """A pre-hook of ``Optimizer.load_state_dict``: whole moments become shards like those of their parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
    keys = [key for group in state['param_groups'] for key in group['params']]
    like = dict(zip(keys, parameters, strict=True))
    cut = {key: {n: _cut(v, like[key]) for n, v in values.items()} for key, values in state['state'].items()}
    return {**state, 'state': cut}


def _cut(value: Any, like: Tensor) -> Any:
    """A whole tensor, which every process has read from the file, in shards like another of its shape."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    shards = distribute_tensor(value.detach(), like.device_mesh, like.placements, src_data_rank=None)
    return shards.clone()  # a slice of the whole would keep all of it in memory
