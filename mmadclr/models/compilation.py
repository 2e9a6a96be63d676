"""Compiles backbones, per block or as a whole."""

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
from mmadclr.models.losses import SelfDistillationLoss
from mmadclr.models.preprocessors import ViewPreprocessor

# Fraction of activations kept by compiled code: without the outputs of norms and activations, which are recomputed where
# they are read again; and under ``grad_checkpointing='selective'``, which uncompiled blocks handle.
BUDGET, SELECTIVE_BUDGET = 0.9, 0.5
# Of blocks, which share their graphs: student and teacher, up to three input sizes, with and without drop path. Of losses:
# up to nine, for three kinds of tokens and numbers of rows that vary.
MAX_GRAPHS = 16
SCOPES = {'block': QueryBlock, 'backbone': QueryViT}
OWN_OPTIONS = {'scope', 'activation_memory_budget'}
TORCH_OPTIONS = inspect.signature(torch.compile).parameters.keys() - {'model'}


def compile_blocks(model: nn.Module, setting: bool | str | dict) -> bool:
    """Compiles the blocks of ``model``, one by one or including the backbone, in place; returns whether it did.

    Shapes are static. All blocks are alike, so they share a few graphs. Of the losses, what is computed from logits is
    compiled, with sizes that may vary; on a GPU, the colors of views, too. Everything else (heads, hooks, wrappers,
    optimizer) runs uncompiled. Parameter names do not change.

    Expected benefits on a GPU (``docs/performance.md`` has what was measured):

    * ``scope='block'`` gives most of the speed-up, and compiles in a few minutes. ``'backbone'`` compiles every block
      separately, about ``depth`` times as long, and may fuse a residual sum with the next block's norm, and the final norm:
      a few percent.
    * ``mode='max-autotune-no-cudagraphs'`` benchmarks several kernels for each matrix product: a few percent for long runs.
    * ``mode='reduce-overhead'`` (CUDA graphs) only removes the gaps between kernel launches. With ViT-S/16 these exist up to
      about 64 images per GPU; above, it only costs memory. ``'max-autotune'`` combines both. Graphs overwrite the memory of
      the previous step, so torch is notified of each step. Nothing that outlives a step is affected: losses and centers
      come from code without graphs, gradients are freed before the next step, evaluation runs uncompiled.

    Args:
        model: Student and teacher.
        setting: False: disabled. True: compile, or warn and run uncompiled if torch cannot. ``'auto'``: True on a GPU.
            A dict: arguments of ``torch.compile``; ``scope``, ``'block'`` (default) or ``'backbone'``; and
            ``activation_memory_budget`` (0 to 1: fraction of the activations kept for the backward pass, the rest is
            recomputed; by default 0.9, or 0.5 under ``grad_checkpointing='selective'``).

    Raises:
        ValueError: Any other setting, or ``scope='backbone'`` with sharded parameters.
    """
    options = read_setting(setting)
    vits = [module for module in model.modules() if isinstance(module, QueryViT)]
    device = next(model.parameters()).device
    if not setting or not vits or (setting == 'auto' and device.type != 'cuda'):
        return False
    kind, budget = SCOPES[options.pop('scope', None) or 'block'], options.pop('activation_memory_budget', None)
    if kind is QueryViT and any(isinstance(module, FSDPModule) for module in model.modules()):
        raise ValueError("compile=dict(scope='backbone') cannot be combined with sharding, which gathers blocks one by one")
    problem = why_not(device, options)
    if problem:
        print_log(
            f'compile={setting!r}: torch cannot compile here, blocks run uncompiled ({problem})',
            'current',
            logging.WARNING,
        )
        return False
    set_limits(vits, budget)
    backend = {name: options[name] for name in ('backend', 'disable') if name in options}
    for module in model.modules():
        if isinstance(module, kind):
            module.compile(**{'dynamic': False, **options})
        elif isinstance(module, SelfDistillationLoss):
            module.compile_terms(**backend)
        elif isinstance(module, ViewPreprocessor) and device.type == 'cuda':
            module.compile_colors(**backend)
    if uses_cuda_graphs(options):
        model.register_forward_pre_hook(announce_step)
    return True


def read_setting(setting: bool | str | dict | None) -> dict:
    """Validated options of a ``compile`` setting.

    Raises:
        ValueError: The setting, an option or its value is unknown.
    """
    if not isinstance(setting, dict):
        if setting not in (True, False, 'auto', None):
            raise ValueError(f"compile={setting!r}: choose True, False, 'auto' or a dict of torch.compile's arguments")
        return {}
    known = OWN_OPTIONS | TORCH_OPTIONS
    unknown = setting.keys() - known
    if unknown:
        raise ValueError(f'compile: unknown {", ".join(sorted(unknown))}; accepted: {", ".join(sorted(known))}')
    modes = () if setting.get('backend', 'inductor') != 'inductor' else torch._inductor.list_mode_options()
    for name, choices in {'scope': SCOPES, 'mode': modes}.items():
        if choices and setting.get(name) is not None and setting[name] not in choices:
            raise ValueError(f'compile: {name}={setting[name]!r}; choose {", ".join(map(repr, choices))}')
    return dict(setting)


def compile_conflicts(setting: bool | str | dict | None) -> Iterator[Finding]:
    """Errors of :func:`read_setting` as findings."""
    return refusals('', read_setting, setting)


def why_not(device: torch.device, options: dict) -> str | None:
    """Why ``torch.compile`` fails on this machine (no compiler, an old GPU); None if it works."""
    try:
        torch.compile(lambda x: x.sin() + 1, **options)(torch.ones(4, device=device))
    except Exception as error:  # exception types depend on the backend
        return f'{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}'
    return None


def set_limits(vits: list[QueryViT], budget: float | None) -> None:
    """Sets the compiler's activation budget, which replaces gradient checkpointing, and its recompilation limit.

    The budget is that of graphs compiled from now on; models alike in one process share their graphs.
    """
    selective = [vit for vit in vits if vit.grad_checkpointing == 'selective']
    for vit in selective:
        vit.grad_checkpointing = False  # the compiler selects the activations
    default = SELECTIVE_BUDGET if selective else BUDGET
    torch._functorch.config.activation_memory_budget = default if budget is None else budget
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_GRAPHS)
    torch._dynamo.config.suppress_errors = True  # falls back to eager mode, and torch warns


def uses_cuda_graphs(options: dict) -> bool:
    """Whether these arguments of ``torch.compile`` enable CUDA graphs."""
    of_mode = torch._inductor.list_mode_options().get(options.get('mode') or '', {})
    return bool({**of_mode, **(options.get('options') or {})}.get('triton.cudagraphs', False))


def announce_step(model: nn.Module, args: tuple) -> None:
    """Forward pre-hook: allows CUDA graphs to overwrite the tensors of the previous step.

    Otherwise torch starts a new step at the teacher's first graph, which has no pending backward pass, and at that of every
    block. No step starts between accumulated batches: their gradients may be stored in a graph's memory.
    """
    if all(parameter.grad is None for parameter in model.parameters()):
        torch.compiler.cudagraph_mark_step_begin()
