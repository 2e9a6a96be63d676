"""Parameter groups of self-distillation with learning rates by layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

TOKENS = re.compile(r'(cls_token|reg_token|pos_embed|mask_token)$')
BLOCK = re.compile(r'blocks\.(\d+)\.')
BACKBONE = 'backbone.'
DEFAULTS = dict(layer_decay=1.0, patch_embed_scale=1.0, head_scale=1.0)


def read_paramwise(paramwise_cfg: Mapping[str, Any] | None) -> dict[str, float]:
    """``layer_decay``, ``patch_embed_scale`` and ``head_scale``, with defaults.

    Raises:
        ValueError: An unknown key or an invalid value.
    """
    settings = {**DEFAULTS, **(paramwise_cfg or {})}
    if settings.keys() != DEFAULTS.keys():
        unknown = min(settings.keys() - DEFAULTS.keys())
        raise ValueError(f'paramwise_cfg has no effect for {unknown} in pretraining: accepted are {", ".join(DEFAULTS)}')
    if not 0 < settings['layer_decay'] <= 1:
        raise ValueError(f'paramwise_cfg.layer_decay={settings["layer_decay"]} must be in (0, 1]')
    for key in ('patch_embed_scale', 'head_scale'):
        if settings[key] <= 0:
            raise ValueError(f'paramwise_cfg.{key}={settings[key]} must be positive')
    return settings


def rate_scale(name: str, depth: int, layer_decay: float, patch_embed_scale: float, head_scale: float) -> float:
    """Learning rate of a parameter of the student relative to that of the backbone's last block.

    ``layer_decay ** (depth - i)`` for block i of ``depth``, one power more for tokens and positions, which times
    ``patch_embed_scale`` for the patch embedding; the final norm has 1, heads have ``head_scale``. As in
    facebookresearch/dinov2, ``utils/param_groups.py: get_vit_lr_decay_rate``, where block 0 has the power ``depth``.
    """
    if not name.startswith(BACKBONE):
        return head_scale
    name = name.removeprefix(BACKBONE)
    if name.startswith('patch_embed.'):
        return patch_embed_scale * layer_decay ** (depth + 1)
    if TOKENS.match(name):
        return layer_decay ** (depth + 1)
    block = BLOCK.match(name)
    return layer_decay ** (depth - int(block[1])) if block else 1.0


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies in pretraining: not to biases and 1-D parameters.

    [CLS], position embeddings and a trainable ``weight_g`` do decay, as in facebookresearch/dino, ``utils.py:
    get_params_groups``; most recipes for supervised ViTs exempt them.
    """
    return parameter.ndim != 1 and not name.endswith('.bias')


def layer_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], depth: int, lr: float, scales: Mapping[str, float]
) -> list[dict]:
    """Groups of trainable parameters with the same rate, decay and part of the student.

    Args:
        named_parameters: Of the student.
        depth: Blocks of its backbone.
        lr: Learning rate for a scale of 1.
        scales: See :func:`read_paramwise`.

    Returns:
        Groups with ``lr``, ``lr_scale``, ``decays`` and ``part`` (``'backbone'`` or ``'head'``) for the schedule hook.
    """
    groups: dict[tuple, dict] = {}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        scale, part = rate_scale(name, depth, **scales), 'backbone' if name.startswith(BACKBONE) else 'head'
        key = (part, scale, decays(name, parameter))
        empty = dict(params=[], lr=lr * scale, lr_scale=scale, decays=key[2], part=part)
        group = groups.setdefault(key, empty if key[2] else {**empty, 'weight_decay': 0.0})
        group['params'].append(parameter)
    return list(groups.values())
