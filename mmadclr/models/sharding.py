"""Shards parameters over processes (FSDP2) to fit larger models; results and checkpoints are unchanged.

Each block of student and teacher is an FSDP unit, gathered just before it runs. Each head is one unit and stays
gathered until the backward pass is done: the loss reads the prototypes after the head has returned.
"""

from __future__ import annotations

from typing import Any

from mmengine import dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Replicate

from mmadclr.distributed.shards import _cut
from mmadclr.models.containers import Network
from mmadclr.models.heads.dino_head import PrototypeLayer
from mmadclr.models.selfsup.base import SelfDistillation

# Whether student blocks reshard their parameters after the forward pass, to be gathered again for the backward pass.
SHARDINGS = {'fsdp': True, 'fsdp-grad-op': False}


def shard_model(model: nn.Module, sharding: str) -> None:
    """Shards the parameters of a model over all processes, in place; it is used, saved and loaded as before.

    Weights are initialized before sharding, and process 0's are used: shards could not draw the same random numbers as a
    single process.

    Args:
        model: On its device.
        sharding: ``'fsdp'``: parameters, gradients and optimizer state take 1 / processes of the memory. ``'fsdp-grad-op'``:
            the student's parameters stay gathered from forward to backward pass, for less communication.

    Raises:
        ValueError: ``sharding`` is unknown, or the model is not a ``SelfDistillation``.
    """
    check_sharding(sharding)
    if not isinstance(model, SelfDistillation):
        raise ValueError(f'sharding={sharding!r} requires a pretraining method, not {type(model).__name__}: remove the key')
    if model.low_rank is not None:
        raise ValueError(f'sharding={sharding!r} and model.low_rank cannot be combined: remove one of them')
    model.init_weights()
    for tensor in model.state_dict().values():
        dist.broadcast(tensor)
    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    _shard_network(model.student, mesh, SHARDINGS[sharding])
    _shard_network(model.teacher, mesh, True)
    fully_shard(model, mesh=mesh)  # has no parameters itself; the root unit tracks the order of all others
    model.register_load_state_dict_pre_hook(_cut_model_state)


def check_sharding(sharding: str) -> None:
    """Raises ValueError for an unknown choice."""
    if sharding not in SHARDINGS:
        raise ValueError(f'sharding={sharding!r}: choose {", ".join(map(repr, SHARDINGS))}, or None to disable it')


def _shard_network(network: Network, mesh, reshard_after_forward: bool) -> None:
    for name, part in network.items():
        if name == 'backbone':
            for block in part.blocks:
                fully_shard(block, mesh=mesh, reshard_after_forward=reshard_after_forward)
            fully_shard(part, mesh=mesh, reshard_after_forward=reshard_after_forward)
        else:
            fully_shard(part, mesh=mesh, reshard_after_forward=False)
            register_fsdp_forward_method(part, 'project')
            for prototypes in (module for module in part.modules() if isinstance(module, PrototypeLayer)):
                prototypes.register_forward_pre_hook(_replicate_input)
                prototypes.register_forward_hook(_gather_output)


def _replicate_input(prototypes: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
    """Sharded prototypes (between steps, when centers are updated) take the input that each process has in full."""
    weight = prototypes.weight_v
    if not isinstance(weight, DTensor):
        return None
    return (DTensor.from_local(args[0], weight.device_mesh, [Replicate()], run_check=False),)


def _gather_output(prototypes: nn.Module, args: tuple[Tensor], logits: Tensor) -> Tensor:
    """Gathers the logits of all prototypes, K numbers per row, rather than the prototypes."""
    return logits.full_tensor() if isinstance(logits, DTensor) else logits


def _cut_model_state(model: nn.Module, state: dict, prefix: str, *_: Any) -> None:
    """Pre-hook of ``load_state_dict``: replaces full tensors by this process's shards."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # a head may still be gathered
    for name, parameter in model.named_parameters():
        if prefix + name in state:
            state[prefix + name] = _cut(state[prefix + name], parameter)
