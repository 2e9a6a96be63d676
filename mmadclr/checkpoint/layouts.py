"""Locates the backbone in a checkpoint, and maps its tensor names.

Known layouts: ours (``state_dict`` with ``teacher.backbone.*``), DINO, iBOT and SelfPatch (``teacher`` and ``student``
dicts, the latter below ``module.``), their backbone-only files, DINOv2 and DINOv3 (chunked blocks, registers, LayerScale,
gated MLPs), timm and MAE (flat, or below ``model``), timm's Eva as DINOv3, mmpretrain and mmseg (``state_dict`` with their
own names), transformers (ViT, DeiT, DINOv2 with and without registers, DINOv3; a file, or a folder with ``config.json``),
and detectors, segmentors or classifiers trained here.
Other prefixes are found as well, and pairs of networks from other trainers are told apart:
:mod:`mmadclr.checkpoint.networks`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mmadclr.checkpoint.families import family_of_tensors
from mmadclr.checkpoint.joining import QKV_BIAS, is_rotary, joined
from mmadclr.checkpoint.kinds import OPTIMIZER_KEYS, detector_part, file_kind
from mmadclr.checkpoint.library_config import checked_facts, read_facts
from mmadclr.checkpoint.names import (
    NOT_BACKBONE,
    OF_BACKBONE,
    OF_TRANSFORMERS_VIT,
    timm_name,
    timm_names,
    unwrapped_name,
    without_wrappers,
)
from mmadclr.checkpoint.networks import Network, choose, networks

DEEPEST = 32  # levels of nested dicts; no trainer nests its tensors deeper
EPS_OF_TRANSFORMERS = 1e-12  # default of its ViT


class BackboneWeights(NamedTuple):
    """A backbone found in a file.

    ``state``: tensors under timm's names. ``prefix``: their prefix in the file. ``left_out``: tensors under the
    same prefix that do not belong to a backbone. ``num_heads``: attention heads, if the file specifies them. ``about``:
    metadata of our own checkpoints (``meta.backbone``), or from the configuration next to the weights; it has ``rope`` if
    positions are rotary and the state lacks their periods, and ``own`` if the file was written by us. ``remarks``: notes for
    the user: other networks in the file, and assumptions.
    """

    state: dict[str, Tensor]
    prefix: str
    left_out: list[str]
    num_heads: int | None
    about: dict
    remarks: tuple[str, ...] = ()


def find_backbone(
    checkpoint: Mapping, which: str = 'teacher', prefix: str | None = None, facts: Mapping | None = None
) -> BackboneWeights:
    """The backbone of a checkpoint; ``which`` selects teacher or student if there are both.

    ``prefix`` selects one of several explicitly: see :func:`mmadclr.checkpoint.networks.choose`. Name parts added by
    wrappers are ignored. ``facts`` override those of the file; see
    :func:`mmadclr.checkpoint.library_config.checked_facts`.

    Raises:
        ValueError: There is no plain vision transformer, or several that ``which`` does not distinguish; or two
            tensors have the same name.
    """
    tensors = dict(tensors_by_path(checkpoint))
    found = networks(tensors, checkpoint)
    if not found:
        raise ValueError(
            f'patch_embed.proj.weight is missing: this is not a checkpoint of a plain vision transformer; '
            f'{file_kind(checkpoint, map(unwrapped_name, tensors))}'
        )
    choice = choose(found, which, prefix)
    below = _below(tensors, choice.network, found)
    left_out = [name for name in below if NOT_BACKBONE.match(timm_name(name))]
    parts = timm_names({name: tensor for name, tensor in below.items() if name not in left_out})
    num_heads, about = _facts(checkpoint, choice.network, below, facts or {})
    rotary = 'pos_embed' not in parts and ('rope' in about or is_rotary(parts))
    state = joined(parts, rotary)
    if rotary and 'rope.periods' not in state:
        about.setdefault('rope', {})
    if about.pop('layer_scale', True) is False:
        state = {name: tensor for name, tensor in state.items() if '.ls' not in name}
    if about.get('qkv_bias', True) is False and not any(QKV_BIAS.search(name) for name in below):
        state = {name: tensor for name, tensor in state.items() if not name.endswith('.attn.qkv.bias')}
    if 'dist_token' in state:
        about.setdefault('pos_embed_resize', 'dino')  # the register that it becomes is that of another model
        state = _with_distillation_token(state)
    remarks = (
        *filter(None, [choice.sentence]),
        *_assumptions(below, state, about),
        *detector_part(tensors, choice.network.prefix),
    )
    return BackboneWeights(_without_class_position(state), choice.network.prefix, left_out, num_heads, about, remarks)


def _assumptions(names: Mapping[str, Tensor], state: Mapping[str, Tensor], about: Mapping) -> list[str]:
    """Assumptions that affect features; ``names`` are those of the file, ``state`` has timm's names."""
    remarks = []
    if 'blocks.0.attn.qkv.bias' in state and not any(QKV_BIAS.search(name) for name in names):
        remarks.append('the attention layers have no qkv bias; it is set to zero')
    if 'embeddings.cls_token' in names and 'reg_token' not in state and 'pos_embed_resize' not in about:
        remarks.append(
            'at other image sizes than its own, positions are resized as in DINO, which trained such weights; '
            'transformers resizes them differently, so its features differ there'
        )
    if 'reg_token' in state and 'pos_embed' in state and 'pos_embed_resize' not in about:
        remarks.append(
            'assuming that positions are resized by exact size, as in published DINOv2 with registers; for checkpoints '
            "of DINOv2's default config, pass facts=dict(pos_embed_resize='dino')"
        )
    if about.get('norm_eps') == EPS_OF_TRANSFORMERS and 'img_size' not in about:
        remarks.append(
            f"no config.json has the eps of its norms; using transformers' default for ViT, {EPS_OF_TRANSFORMERS:g}"
        )
    return remarks


def _below(tensors: Mapping[str, Tensor], network: Network, found: list[Network]) -> dict[str, Tensor]:
    """Tensors below the prefix of a network, without prefix and wrappers; excludes networks nested in it.

    Names with missing or additional wrappers in the prefix are included if they are names of a backbone and no second
    network differs only by wrappers.
    """
    others = [other.clean for other in found if other is not network]
    inner = tuple(clean for clean in others if clean.startswith(network.clean) and clean != network.clean)
    names = []
    for name in tensors:
        clean = unwrapped_name(name)
        astray = not name.startswith(network.prefix)
        if astray and (network.clean in others or not OF_BACKBONE.match(clean.removeprefix(network.clean))):
            continue
        if clean.startswith(network.clean) and not clean.startswith(inner):
            names.append(name)
    return {clean.removeprefix(network.clean): tensors[name] for clean, name in without_wrappers(names).items()}


def _facts(checkpoint: Mapping, network: Network, names: Mapping[str, Tensor], given: Mapping) -> tuple[int | None, dict]:
    """Number of heads and ``about`` of a backbone."""
    facts = read_facts(checkpoint)
    if not facts and any(name.endswith(OF_TRANSFORMERS_VIT) for name in names):
        facts = dict(norm_eps=EPS_OF_TRANSFORMERS)
    heads = facts.pop('num_heads', None) or _heads_of_periods(names)
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    recorded = meta.get('backbone')
    about = {**facts, **(recorded if isinstance(recorded, Mapping) else {}), **given}
    if isinstance(meta.get('architecture'), Mapping) or isinstance(recorded, Mapping):
        about['own'] = True
    family = None if about.get('own') else _family(names)
    if family is not None:
        about.setdefault('family', family)
    return heads or _num_heads(checkpoint, network.clean), checked_facts(about)


def _heads_of_periods(names: Mapping[str, Tensor]) -> int | None:
    """Each of DINOv3's periods belongs to four channels of a head."""
    new = {timm_name(name): tensor for name, tensor in names.items()}
    periods, token = new.get('rope.periods'), new.get('cls_token')
    if periods is None or token is None or not periods.numel() or token.shape[-1] % (4 * periods.numel()):
        return None
    return token.shape[-1] // (4 * periods.numel())


def _family(names: Mapping[str, Tensor]) -> str | None:
    mask = next((tensor for name, tensor in names.items() if timm_name(name) == 'mask_token'), None)
    width = next((tensor.shape[-1] for name, tensor in names.items() if timm_name(name) == 'cls_token'), None)
    new = {timm_name(name): tensor for name, tensor in names.items()}
    has_tokens = 'reg_token' in new or (mask is not None and mask.shape[-1] == width)
    return family_of_tensors(names, is_rotary(new), 'blocks.0.ls1.gamma' in new and has_tokens)


def tensors_by_path(node: Mapping, path: str = '', depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """All tensors of nested dicts by dotted path, except those of optimizers."""
    for key, value in node.items():
        key = ''.join(c if c.isprintable() else repr(c)[1:-1] for c in str(key))  # keeps messages on one line
        if isinstance(value, Tensor):
            yield f'{path}{key}', value
        elif isinstance(value, Mapping) and depth < DEEPEST and not OPTIMIZER_KEYS.match(key):
            yield from tensors_by_path(value, f'{path}{key}.', depth + 1)


def _with_distillation_token(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turns DeiT's distillation token into a register; the positions of both tokens are added to them, as in the model."""
    positions, tokens = state.get('pos_embed'), [state.get(name) for name in ('cls_token', 'dist_token')]
    if positions is None or positions.ndim != 3 or 'reg_token' in state or any(token is None for token in tokens):
        return state
    cls_token, dist_token = (token + positions[:, i : i + 1] for i, token in enumerate(tokens) if token is not None)
    rest = {name: tensor for name, tensor in state.items() if name != 'dist_token'}
    return {**rest, 'cls_token': cls_token, 'reg_token': dist_token, 'pos_embed': positions[:, 2:]}


def _without_class_position(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With registers, timm has no position for [CLS] but DINOv2 does: adds it to the token, as the model would."""
    positions = state.get('pos_embed')
    if not {'reg_token', 'cls_token'} <= state.keys() or positions is None or positions.ndim != 3:
        return state
    if _is_square(positions.shape[1]) or not _is_square(positions.shape[1] - 1):
        return state
    return {**state, 'cls_token': state['cls_token'] + positions[:, :1], 'pos_embed': positions[:, 1:]}


def with_class_position(weights: BackboneWeights) -> BackboneWeights:
    """Adds a zero position for [CLS] if the file has a square grid of positions and none for its class token.

    timm's DeiT III is such a model. With registers nothing is added.
    """
    state = weights.state
    positions = state.get('pos_embed')
    if 'cls_token' not in state or 'reg_token' in state or positions is None or positions.ndim != 3:
        return weights
    if not _is_grid(positions.shape[1], state, weights.about):
        return weights
    padded = torch.cat((torch.zeros_like(positions[:, :1]), positions), dim=1)
    return weights._replace(state={**state, 'pos_embed': padded})


def _is_grid(number: int, state: Mapping[str, Tensor], about: Mapping) -> bool:
    """Whether a number of positions is that of the patch grid, without a class token."""
    kernel = state.get('patch_embed.proj.weight')
    if 'img_size' in about and kernel is not None and kernel.ndim == 4:
        height, width = about['img_size']
        return number == (height // kernel.shape[2]) * (width // kernel.shape[3])
    return _is_square(number) and not _is_square(number - 1)


def _is_square(number: int) -> bool:
    return number >= 0 and math.isqrt(number) ** 2 == number


def _num_heads(checkpoint: Mapping, prefix: str) -> int | None:
    """From ``meta.architecture`` of our checkpoints, which lists the heads of every attention module."""
    meta = checkpoint.get('meta')
    architecture = meta.get('architecture') if isinstance(meta, Mapping) else None
    if not isinstance(architecture, Mapping):
        return None
    blocks = prefix.removeprefix('ema_').removeprefix('state_dict.') + 'blocks.'
    numbers = [number for name, number in architecture.items() if unwrapped_name(str(name)).startswith(blocks)]
    sound = all(isinstance(number, int) and not isinstance(number, bool) and number > 0 for number in numbers)
    return numbers[0] if sound and len(set(numbers)) == 1 else None
