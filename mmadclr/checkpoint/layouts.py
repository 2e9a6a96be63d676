"""Where the backbone is in a checkpoint, and what its tensors are called there.

Known layouts: ours (``state_dict`` with ``teacher.backbone.*``), DINO, iBOT and SelfPatch (``teacher`` and ``student``
dicts, the latter below ``module.``), their backbone-only files, DINOv2 (blocks in chunks, registers, LayerScale), timm and
MAE (flat, or below ``model``), mmpretrain and mmseg (``state_dict`` with their own names), and detectors, segmentors or
classifiers trained here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

# Every layout has this tensor exactly once per backbone; what precedes it is the prefix.
ANCHOR = re.compile(r'(?P<prefix>.*?)patch_embed\.proj(ection)?\.weight$')
# DINOv2, mmpretrain and mmseg -> timm.
RENAMES = (
    (r'^blocks\.\d+\.(\d+)\.', r'blocks.\1.'),
    (r'^register_tokens$', 'reg_token'),
    (r'^layers\.', 'blocks.'),
    (r'^(blocks\.\d+)\.ln([12])\.', r'\1.norm\2.'),
    (r'\.ffn\.layers\.0\.0\.', '.mlp.fc1.'),
    (r'\.ffn\.layers\.1\.', '.mlp.fc2.'),
    (r'\.attn\.attn\.in_proj_', '.attn.qkv.'),
    (r'\.attn\.attn\.out_proj\.', '.attn.proj.'),
    (r'^ln1\.', 'norm.'),
    (r'\.(attn|ffn)\.gamma([12])\.weight$', r'.ls\2.gamma'),
    (r'^patch_embed\.projection\.', 'patch_embed.proj.'),
)
# Tensors beside the backbone in flat files: classifiers, mask tokens, and modules the released code of ADCLR's authors
# creates but never uses (Sherrylone/PQCL, models/pos_transformer.py).
NOT_BACKBONE = re.compile(
    r'^(head|head_dist|fc|fc_norm|pre_logits|decoder\w*|mask_token|masked_embed|norm2|query_block|fpn\d)(\.|$)'
)


# mmpretrain calls the momentum encoders of MoCo v3 and DenseCL so; the other network of a file is the student then.
TEACHER_NAMES = frozenset(('teacher', 'momentum_encoder', 'encoder_k'))


class BackboneWeights(NamedTuple):
    """A backbone as found in a file.

    ``state``: tensors under timm's names. ``prefix``: what preceded them in the file. ``left_out``: tensors under the
    same prefix that belong to no backbone. ``num_heads``: attention heads, where the file tells. ``about``: what a
    checkpoint of ours tells about its backbone beyond the tensors (``meta.backbone``).
    """

    state: dict[str, Tensor]
    prefix: str
    left_out: list[str]
    num_heads: int | None
    about: dict


def find_backbone(checkpoint: Mapping, which: str = 'teacher', prefix: str | None = None) -> BackboneWeights:
    """The backbone of a checkpoint; ``which`` of the two if there is a teacher and a student.

    ``prefix`` (with its final dot) chooses one of several by hand.

    Raises:
        ValueError: There is no backbone of a plain vision transformer, or several that ``which`` does not tell apart.
    """
    tensors = dict(tensors_by_path(checkpoint))
    found = [match['prefix'] for match in map(ANCHOR.match, tensors) if match]
    prefix = _choose(found, which) if prefix is None else prefix
    if prefix not in found:
        raise ValueError(f'no backbone below prefix={prefix!r}; found: {", ".join(map(repr, found)) or "none"}')
    state, left_out = {}, []
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            continue
        name = name.removeprefix(prefix)
        if NOT_BACKBONE.match(name):
            left_out.append(name)
        else:
            state[_timm_name(name)] = tensor
    state = _without_class_position(state)
    meta = checkpoint.get('meta')
    about = dict(meta.get('backbone') or {}) if isinstance(meta, Mapping) else {}
    return BackboneWeights(state, prefix, left_out, _num_heads(checkpoint, prefix), about)


def tensors_by_path(node: Mapping, path: str = '') -> Iterator[tuple[str, Tensor]]:
    """All tensors of nested dicts by dotted path, those of the optimizer left out."""
    for key, value in node.items():
        if isinstance(value, Tensor):
            yield f'{path}{key}', value
        elif isinstance(value, Mapping) and key != 'optimizer':
            yield from tensors_by_path(value, f'{path}{key}.')


def _choose(prefixes: list[str], which: str) -> str:
    if which not in ('teacher', 'student'):
        raise ValueError(f"which={which!r}: choose 'teacher' or 'student'")
    teachers = [prefix for prefix in prefixes if TEACHER_NAMES & set(prefix.split('.'))]
    students = [prefix for prefix in prefixes if 'student' in prefix.split('.')]
    if teachers and not students:
        students = [prefix for prefix in prefixes if prefix not in teachers]
    candidates = {'teacher': teachers, 'student': students}[which] if teachers or students else prefixes
    if len(candidates) == 1:
        return candidates[0]
    if not prefixes:
        raise ValueError('there is no patch_embed.proj.weight: this is no checkpoint of a plain vision transformer')
    raise ValueError(f'which of the backbones below {", ".join(map(repr, prefixes))} is meant? Choose with prefix=...')


def _without_class_position(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Beside registers, timm has no position for [CLS], DINOv2 has one: it is added to the token, as the model would."""
    positions = state.get('pos_embed')
    if not {'reg_token', 'cls_token'} <= state.keys() or positions is None or positions.ndim != 3:
        return state
    if _is_square(positions.shape[1]) or not _is_square(positions.shape[1] - 1):
        return state
    return {**state, 'cls_token': state['cls_token'] + positions[:, :1], 'pos_embed': positions[:, 1:]}


def with_class_position(weights: BackboneWeights) -> BackboneWeights:
    """A position for [CLS], zero, where the file has a square grid of positions and none for its class token.

    timm's DeiT III is such a model. With registers there is none to add.
    """
    state = weights.state
    positions = state.get('pos_embed')
    if 'cls_token' not in state or 'reg_token' in state or 'img_size' in weights.about or positions is None:
        return weights
    if positions.ndim != 3 or not _is_square(positions.shape[1]) or _is_square(positions.shape[1] - 1):
        return weights
    padded = torch.cat((torch.zeros_like(positions[:, :1]), positions), dim=1)
    return weights._replace(state={**state, 'pos_embed': padded})


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number


def _timm_name(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _num_heads(checkpoint: Mapping, prefix: str) -> int | None:
    """From ``meta.architecture`` of our checkpoints, which lists the heads of every attention module."""
    meta = checkpoint.get('meta')
    architecture = meta.get('architecture') if isinstance(meta, Mapping) else None
    blocks = prefix.removeprefix('state_dict.') + 'blocks.'
    heads = {number for name, number in (architecture or {}).items() if name.startswith(blocks)}
    return heads.pop() if len(heads) == 1 else None
