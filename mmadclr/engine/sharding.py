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
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from mmadclr.models.heads.dino_head import Prototypes
from mmadclr.models.selfsup.base import SelfDistillation

# Whether a student's block gives its whole parameters back after the forward pass, to be gathered again for the backward.
SHARDINGS = {'fsdp': True, 'fsdp-grad-op': False}


def shard_model(model: SelfDistillation, sharding: str) -> None:
    """Cuts the parameters of a model into one shard a process, in place; it is used, saved and loaded as before.

    Weights are drawn first, those of process 0 count: from shards, no process could draw what a single one draws.

    Args:
        model: On its device.
        sharding: ``'fsdp'``: parameters, gradients and optimizer state take 1 / processes of the memory. ``'fsdp-grad-op'``:
            the student's parameters stay whole from forward to backward pass, for less communication.

    Raises:
        ValueError: Unknown ``sharding``, or a model that is no ``SelfDistillation``.
    """
    check_sharding(sharding)
    if not isinstance(model, SelfDistillation):
        raise ValueError(f'sharding={sharding!r} is for pretraining methods, not for {type(model).__name__}: remove the key')
    model.init_weights()
    for tensor in model.state_dict().values():
        dist.broadcast(tensor)
    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    _shard_network(model.student, mesh, SHARDINGS[sharding])
    _shard_network(model.teacher, mesh, True)
    fully_shard(model, mesh=mesh)  # no parameters of its own: the root that keeps the order of all units
    model.register_load_state_dict_pre_hook(_cut_model_state)


def check_sharding(sharding: str) -> None:
    """Raises a ValueError for an unknown choice."""
    if sharding not in SHARDINGS:
        raise ValueError(f'sharding={sharding!r}: choose {", ".join(map(repr, SHARDINGS))}, or None for whole parameters')


def _shard_network(network: nn.ModuleDict, mesh, reshard_after_forward: bool) -> None:
    for name, part in network.items():
        if name == 'backbone':
            for block in part.blocks:
                fully_shard(block, mesh=mesh, reshard_after_forward=reshard_after_forward)
            fully_shard(part, mesh=mesh, reshard_after_forward=reshard_after_forward)
        else:
            fully_shard(part, mesh=mesh, reshard_after_forward=False)
            register_fsdp_forward_method(part, 'project')
            for prototypes in (module for module in part.modules() if isinstance(module, Prototypes)):
                prototypes.register_forward_pre_hook(_replicate_input)
                prototypes.register_forward_hook(_gather_output)


def _replicate_input(prototypes: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
    """Prototypes in shards (between steps, when centers move) take the input each process has in full."""
    weight = prototypes.weight_v
    if not isinstance(weight, DTensor):
        return None
    return (DTensor.from_local(args[0], weight.device_mesh, [Replicate()], run_check=False),)


def _gather_output(prototypes: nn.Module, args: tuple[Tensor], logits: Tensor) -> Tensor:
    """The logits of all prototypes, K numbers a row, instead of the prototypes themselves."""
    return logits.full_tensor() if isinstance(logits, DTensor) else logits


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


def _cut_model_state(model: nn.Module, state: dict, prefix: str, *_: Any) -> None:
    """A pre-hook of ``load_state_dict``: replaces whole tensors by this process's shards."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # a head may still be whole
    for name, parameter in model.named_parameters():
        if prefix + name in state:
            state[prefix + name] = _cut(state[prefix + name], parameter)


def _cut(value: Any, like: Tensor) -> Any:
    """A whole tensor, which every process has read from the file, in shards like another of its shape."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    shards = distribute_tensor(value.detach(), like.device_mesh, like.placements, src_data_rank=None)
    return shards.clone()  # a slice of the whole would keep all of it in memory
