"""Compiling transformer blocks one by one."""

from __future__ import annotations

import logging

import torch
from mmengine.logging import print_log
from torch import nn

from mmadclr.models.backbones.query_block import QueryBlock
from mmadclr.models.backbones.query_vit import QueryViT

# What of the activations compiled blocks keep for ``grad_checkpointing='selective'``, which is for uncompiled ones.
SELECTIVE_BUDGET = 0.5
# Student and teacher, two or three input sizes, with and without drop path; all blocks share their graphs.
MAX_GRAPHS = 16


def compile_blocks(model: nn.Module, setting: bool | str | dict) -> bool:
    """Compiles every ``QueryBlock`` of ``model`` in place, with static shapes; says whether it did.

    Blocks are alike, so they share a handful of graphs, and everything between them (loss, hooks, wrappers, optimizer)
    stays ordinary code. Names of parameters do not change.

    Args:
        model: Student and teacher.
        setting: False: nothing. True: compile, or warn and go on uncompiled where torch cannot. ``'auto'``: True on a GPU.
            A dict: arguments of ``torch.compile``, and ``activation_memory_budget`` (0 to 1: share of the activations kept
            for the backward pass, the rest computed again; half of them under ``grad_checkpointing='selective'``).

    Raises:
        ValueError: Any other setting.
    """
    if setting not in (True, False, 'auto', None) and not isinstance(setting, dict):
        raise ValueError(f"compile={setting!r}: choose True, False, 'auto' or a dict of torch.compile's arguments")
    blocks = [module for module in model.modules() if isinstance(module, QueryBlock)]
    on_gpu = next(model.parameters()).is_cuda
    if not setting or not blocks or (setting == 'auto' and not on_gpu):
        return False
    options = dict(setting) if isinstance(setting, dict) else {}
    vits = [module for module in model.modules() if isinstance(module, QueryViT)]
    selective = any(vit.grad_checkpointing == 'selective' for vit in vits)
    budget = options.pop('activation_memory_budget', SELECTIVE_BUDGET if selective else 1.0)
    problem = why_not(next(model.parameters()).device, options)
    if problem:
        print_log(
            f'compile={setting!r}: torch cannot compile here, blocks run uncompiled ({problem})', 'current', logging.WARNING
        )
        return False
    torch._functorch.config.activation_memory_budget = budget
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_GRAPHS)
    torch._dynamo.config.suppress_errors = True  # a block that does not compile runs as it is, and torch warns
    for vit in vits:
        if vit.grad_checkpointing == 'selective':
            vit.grad_checkpointing = False  # the compiler chooses what to keep
    for block in blocks:
        block.compile(**{'dynamic': False, **options})
    return True


def why_not(device: torch.device, options: dict) -> str | None:
    """What stands in the way of ``torch.compile`` on this machine (a missing compiler, an old GPU); None if nothing does."""
    try:
        torch.compile(lambda x: x.sin() + 1, **options)(torch.ones(4, device=device))
    except Exception as error:  # of many kinds, by backend
        return f'{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}'
    return None
