"""Compiling backbones, block by block or whole."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator

import torch
from mmengine.logging import print_log
from torch import nn
from torch.distributed.fsdp import FSDPModule

from mmadclr.config.findings import Finding, refusals
from mmadclr.models.backbones.query_block import QueryBlock
from mmadclr.models.backbones.query_vit import QueryViT

# What of the activations compiled code keeps for ``grad_checkpointing='selective'``, which is for uncompiled blocks.
SELECTIVE_BUDGET = 0.5
# Student and teacher, two or three input sizes, with and without drop path; all blocks share their graphs.
MAX_GRAPHS = 16
SCOPES = {'block': QueryBlock, 'backbone': QueryViT}
TORCH_OPTIONS = inspect.signature(torch.compile).parameters.keys() - {'model'}


def compile_blocks(model: nn.Module, setting: bool | str | dict) -> bool:
    """Compiles the blocks of ``model``, one by one or with the backbone around them, in place; says whether it did.

    Shapes are static. Blocks are alike, so they share a handful of graphs, and everything between them (loss, hooks,
    wrappers, optimizer) stays ordinary code. Names of parameters do not change.

    What is expected to pay on a GPU; no GPU of ours has measured it:

    * ``scope='block'`` is most of the gain, and compiles in a few minutes. ``'backbone'`` compiles every block anew, about
      ``depth`` times as long, and may fuse a residual sum with the next block's norm, and the final norm: a few percent.
    * ``mode='max-autotune-no-cudagraphs'`` times several kernels for each product: a few percent for long runs.
    * ``mode='reduce-overhead'`` (CUDA graphs) removes the gaps between launches and nothing else. There are such gaps at
      up to about 32 images a GPU; above, it costs memory for nothing. ``'max-autotune'`` is both. Graphs overwrite the
      memory of the step before, so each step is announced to torch. Nothing that outlives a step is affected: losses and
      centers come from code that is not compiled, gradients are dropped before the next step, evaluation runs uncompiled.

    Args:
        model: Student and teacher.
        setting: False: nothing. True: compile, or warn and go on uncompiled where torch cannot. ``'auto'``: True on a GPU.
            A dict: arguments of ``torch.compile``; ``scope``, ``'block'`` (default) or ``'backbone'``; and
            ``activation_memory_budget`` (0 to 1: share of the activations kept for the backward pass, the rest computed
            again; half of them under ``grad_checkpointing='selective'``).

    Raises:
        ValueError: Any other setting, or whole backbones whose parameters are sharded block by block.
    """
    options = read_setting(setting)
    vits = [module for module in model.modules() if isinstance(module, QueryViT)]
    device = next(model.parameters()).device
    if not setting or not vits or (setting == 'auto' and device.type != 'cuda'):
        return False
    kind, budget = SCOPES[options.pop('scope', None) or 'block'], options.pop('activation_memory_budget', None)
    if kind is QueryViT and any(isinstance(module, FSDPModule) for module in model.modules()):
        raise ValueError("compile=dict(scope='backbone') and sharding exclude each other: blocks are gathered one by one")
    problem = why_not(device, options)
    if problem:
        print_log(
            f'compile={setting!r}: torch cannot compile here, blocks run uncompiled ({problem})', 'current', logging.WARNING
        )
        return False
    set_limits(vits, budget)
    for module in model.modules():
        if isinstance(module, kind):
            module.compile(**{'dynamic': False, **options})
    if uses_cuda_graphs(options):
        model.register_forward_pre_hook(announce_step)
    return True


def read_setting(setting: bool | str | dict | None) -> dict:
    """Options of a setting, once it is certain that each of them means something.

    Raises:
        ValueError: It is none, or an option or its value is unknown.
    """
    if not isinstance(setting, dict):
        if setting not in (True, False, 'auto', None):
            raise ValueError(f"compile={setting!r}: choose True, False, 'auto' or a dict of torch.compile's arguments")
        return {}
    known = {'scope', 'activation_memory_budget', *TORCH_OPTIONS}
    unknown = setting.keys() - known
    if unknown:
        raise ValueError(f'compile: unknown {", ".join(sorted(unknown))}; there are {", ".join(sorted(known))}')
    modes = () if setting.get('backend', 'inductor') != 'inductor' else torch._inductor.list_mode_options()
    for name, choices in {'scope': SCOPES, 'mode': modes}.items():
        if choices and setting.get(name) is not None and setting[name] not in choices:
            raise ValueError(f'compile: {name}={setting[name]!r}; choose {", ".join(map(repr, choices))}')
    return dict(setting)


def compile_conflicts(setting: bool | str | dict | None) -> Iterator[Finding]:
    """What :func:`read_setting` refuses."""
    return refusals('', read_setting, setting)


def why_not(device: torch.device, options: dict) -> str | None:
    """What stands in the way of ``torch.compile`` on this machine (a missing compiler, an old GPU); None if nothing does."""
    try:
        torch.compile(lambda x: x.sin() + 1, **options)(torch.ones(4, device=device))
    except Exception as error:  # of many kinds, by backend
        return f'{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}'
    return None


def set_limits(vits: list[QueryViT], budget: float | None) -> None:
    """Tells the compiler what to keep, in the place of checkpoints, and how many graphs are no mistake."""
    selective = [vit for vit in vits if vit.grad_checkpointing == 'selective']
    for vit in selective:
        vit.grad_checkpointing = False  # the compiler chooses what to keep
    default = SELECTIVE_BUDGET if selective else 1.0
    torch._functorch.config.activation_memory_budget = default if budget is None else budget
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_GRAPHS)
    torch._dynamo.config.suppress_errors = True  # what does not compile runs as it is, and torch warns


def uses_cuda_graphs(options: dict) -> bool:
    """Whether torch replays CUDA graphs under these arguments of ``torch.compile``."""
    of_mode = torch._inductor.list_mode_options().get(options.get('mode'), {})
    return bool({**of_mode, **(options.get('options') or {})}.get('triton.cudagraphs', False))


def announce_step(model: nn.Module, args: tuple) -> None:
    """A forward pre-hook: the tensors that CUDA graphs made in the step before are free, the next may overwrite them.

    Without it torch begins anew at the first graph of the teacher, which has no backward pass to come, and that of every
    block. Between accumulated batches nothing begins: their gradients may lie in a graph's memory.
    """
    if all(parameter.grad is None for parameter in model.parameters()):
        torch.compiler.cudagraph_mark_step_begin()
