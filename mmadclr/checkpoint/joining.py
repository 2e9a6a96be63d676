"""Joins tensors that some code bases store separately: queries, keys and values, and gates and values.

Names are timm's, as far as :func:`mmadclr.checkpoint.names.timm_name` maps them one by one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# transformers' ViT and DINOv2, and its DINOv3
SEPARATE = re.compile(
    r'^(?P<block>blocks\.\d+)\.attention\.(attention\.(query|key|value)|[qkv]_proj)\.(?P<kind>weight|bias)$'
)
PARTS = 'qkv'
QKV_BIAS = re.compile(
    r'\.attn\.(qkv\.)?\w*bias\w*$|\.(attention\.(attention\.\w+|[qkv]_proj)\.|in_proj_)bias$'
)  # under any name, joint or separate
# (gate, value) of gated feed-forward layers: DINOv3, timm's Eva, transformers' DINOv3.
GATED = (('w1', 'w2'), ('fc1_g', 'fc1_x'), ('gate_proj', 'up_proj'))
REGISTERS_OF_DINOV3 = 4  # timm's Eva with RoPE has other numbers of registers in models with other rotary positions


def joined(state: dict[str, Tensor], rotary: bool) -> dict[str, Tensor]:
    """Tensors with joint ``attn.qkv`` and, if gated, joint ``mlp.fc1``: gate first, then value.

    The bias of queries, keys and values is the effective one: DINOv3's is multiplied by its mask, and zero for keys.

    Args:
        state: Tensors of a backbone.
        rotary: It has the rotary positions of DINOv3: then keys need no bias, and other names are known.
    """
    # transformers' DINOv3 without registers stores an empty tensor of them.
    state = {name: tensor for name, tensor in state.items() if name != 'reg_token' or tensor.numel()}
    state = _with_joint_layers(_with_joint_qkv(state, rotary))
    return _with_effective_biases(_with_bias_of_eva(state)) if rotary else _with_qkv_biases(state)


def is_rotary(state: Mapping[str, Tensor]) -> bool:
    """Whether a backbone has the rotary positions of DINOv3, by its names before they are joined.

    Published files of DINOv3 have periods, those of timm a class token and registers but no positions.
    """
    if 'pos_embed' in state or any(re.search(r'(^|\.)rope\.(?!periods$)|freqs', name) for name in state):
        return False
    registers = state.get('reg_token')
    has_registers = registers is not None and registers.ndim == 3 and registers.shape[1] == REGISTERS_OF_DINOV3
    of_transformers = any(name.endswith('.attention.q_proj.weight') for name in state)
    return 'rope.periods' in state or ('cls_token' in state and (has_registers or of_transformers))


def _with_joint_qkv(state: dict[str, Tensor], rotary: bool) -> dict[str, Tensor]:
    """Joins separate queries, keys and values, in this order; keeps them separate if one is missing or of another shape.

    With rotary positions, keys need not have a bias.
    """
    found = dict(state)
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for name in state:
        if match := SEPARATE.match(name):
            part = name.removeprefix(f'{match["block"]}.attention.').removeprefix('attention.')[0]
            groups.setdefault((match['block'], match['kind']), {})[part] = name
    for (block, kind), names in groups.items():
        tensors = {part: state[name] for part, name in names.items()}
        if rotary and kind == 'bias' and tensors.keys() == {'q', 'v'}:
            tensors['k'] = torch.zeros_like(tensors['q'])
        if len(tensors) == len(PARTS) and len({tensor.shape for tensor in tensors.values()}) == 1:
            found[f'{block}.attn.qkv.{kind}'] = torch.cat([tensors[part] for part in PARTS])
            for name in names.values():
                del found[name]
    return found


def _with_joint_layers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Joins gates and values; transformers' ``up_proj`` without a gate is an ordinary layer."""
    found = dict(state)
    for name in state:
        match = re.fullmatch(r'(blocks\.\d+\.mlp\.)(\w+)\.(weight|bias)', name)
        pair = next((pair for pair in GATED if match and pair[1] == match[2]), None)
        if match is None or pair is None:
            continue
        gate, new = f'{match[1]}{pair[0]}.{match[3]}', f'{match[1]}fc1.{match[3]}'
        if gate in state and state[gate].shape == state[name].shape:
            found[new] = torch.cat((found.pop(gate), found.pop(name)))
        elif gate not in state and pair[1] == 'up_proj':
            found[new] = found.pop(name)
    return found


def _with_bias_of_eva(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's Eva has biases of queries and values, without names of a joint layer."""
    found = dict(state)
    for name, bias in state.items():
        block = name.removesuffix('.q_bias')
        value = state.get(f'{block}.v_bias')
        if block != name and value is not None and value.shape == bias.shape:
            found[f'{block}.qkv.bias'] = torch.cat((bias, torch.zeros_like(bias), value))
            del found[name], found[f'{block}.v_bias']
    return found


def _with_effective_biases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Applies ``bias_mask``; NaN, in files of the first version, stands for the mask of all others: no bias of keys.

    facebookresearch/dinov3, ``layers/attention.py: LinearKMaskedBias``.
    """
    found = dict(state)
    for name, mask in state.items():
        bias = name.removesuffix('_mask')
        if not name.endswith('.qkv.bias_mask') or bias not in state or state[bias].shape != mask.shape or len(mask) % 3:
            continue
        q, _, v = (state[bias] * torch.where(mask.isnan(), 1, mask)).chunk(3)
        found[bias] = torch.cat((q, torch.zeros_like(q), v))
        del found[name]
    return found


def _with_qkv_biases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adds biases of zeros if no block has any."""
    weights = {name: tensor for name, tensor in state.items() if re.fullmatch(r'blocks\.\d+\.attn\.qkv\.weight', name)}
    if any(QKV_BIAS.search(name) for name in state) or any(tensor.ndim != 2 for tensor in weights.values()):
        return state
    biases = {name.removesuffix('weight') + 'bias': tensor.new_zeros(len(tensor)) for name, tensor in weights.items()}
    return {**state, **biases}
