"""What the tensors of a backbone are called by the code bases we read, and by timm."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

# What wrappers put into the name of whatever they wrap, at any level: DataParallel, DistributedDataParallel and averaged
# models; torch.compile; FSDP; activation checkpointing; Lightning's Fabric; fairscale.
WRAPPERS = frozenset(
    (
        'module',
        '_orig_mod',
        '_fsdp_wrapped_module',
        '_checkpoint_wrapped_module',
        '_forward_module',
        '_fpw_module',
    )
)
# Every layout has this tensor exactly once per backbone; what precedes it is the prefix.
ANCHOR = re.compile(
    r'(?P<prefix>(.*?\.)?)(?P<name>patch_embed\.proj(ection)?|embeddings\.patch_embeddings\.projection)\.weight'
)
# DINOv2, mmpretrain, mmseg and transformers -> timm.
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
    (r'^embeddings\.patch_embeddings\.projection\.', 'patch_embed.proj.'),
    (r'^embeddings\.position_embeddings$', 'pos_embed'),
    (r'^embeddings\.register_tokens$', 'reg_token'),
    (r'^embeddings\.(cls_token|mask_token)$', r'\1'),
    (r'^layernorm\.', 'norm.'),
    (r'^encoder\.layer\.', 'blocks.'),
    (r'^(blocks\.\d+)\.layernorm_before\.', r'\1.norm1.'),
    (r'^(blocks\.\d+)\.layernorm_after\.', r'\1.norm2.'),
    (r'^(blocks\.\d+)\.attention\.output\.dense\.', r'\1.attn.proj.'),
    (r'^(blocks\.\d+)\.intermediate\.dense\.', r'\1.mlp.fc1.'),
    (r'^(blocks\.\d+)\.output\.dense\.', r'\1.mlp.fc2.'),
    (r'^(blocks\.\d+)\.layer_scale([12])\.lambda1$', r'\1.ls\2.gamma'),
)
# Tensors beside the backbone in flat files: classifiers, poolers, mask tokens, and modules the released code of ADCLR's
# authors creates but never uses (Sherrylone/PQCL, models/pos_transformer.py).
NOT_BACKBONE = re.compile(
    r'^(head|head_dist|fc|fc_norm|pre_logits|pooler|decoder\w*|mask_token|masked_embed|norm2|query_block|fpn\d)(\.|$)'
)
OF_BACKBONE = re.compile(
    r'^((blocks|layers|encoder\.layer)\.\d+|patch_embed|embeddings|norm|ln1|layernorm|cls_token|reg_token|register_tokens|'
    r'mask_token|pos_embed)(\.|$)'
)
SEPARATE = re.compile(r'^(?P<block>blocks\.\d+)\.attention\.attention\.(?P<part>query|key|value)\.(?P<kind>weight|bias)$')
QKV_BIAS = re.compile(
    r'\.attn\.(qkv\.)?\w*bias\w*$|\.(attention\.attention\.\w+\.|in_proj_)bias$'
)  # under any name, whole or in part
OF_TRANSFORMERS_VIT = '.layernorm_before.weight'  # transformers' ViT and MAE, and none of its other models that we read


def unwrapped_name(name: str) -> str:
    """A dotted name without the parts that wrappers added, whatever their number and place."""
    return '.'.join(part for part in name.split('.') if part not in WRAPPERS)


def without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Names as they are in a file by what they are without wrappers.

    Raises:
        ValueError: Two names are one without them.
    """
    found: dict[str, str] = {}
    for name in names:
        first = found.setdefault(unwrapped_name(name), name)
        if first != name:
            raise ValueError(
                f'{first!r} and {name!r} are one name without the parts that wrappers add '
                f'({", ".join(part for part in name.split(".") + first.split(".") if part in WRAPPERS)}): choose one of the '
                'networks with prefix=... (--prefix in the tools)'
            )
    return found


def timm_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a backbone under timm's names; queries, keys and values in one.

    Where no block has a bias of queries, keys and values, there is one of zeros.

    Raises:
        ValueError: Two tensors get the same name.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = timm_name(name)
        if new in state:
            raise ValueError(f'{name!r} and another tensor of the file both are {new!r} of a vision transformer')
        state[new] = tensor
    return _with_qkv_biases(_with_joint_qkv(state))


def timm_name(name: str) -> str:
    """The name of one tensor; queries, keys and values of transformers stay apart."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _with_joint_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Separate queries, keys and values joined, in this order; where one is missing or of another shape they stay apart."""
    parts: dict[str, dict[str, str]] = {}
    for name in state:
        if match := SEPARATE.match(name):
            parts.setdefault(f'{match["block"]}.attn.qkv.{match["kind"]}', {})[match['part']] = name
    joint = {}
    for new, names in parts.items():
        tensors = [state[names[part]] for part in ('query', 'key', 'value') if part in names]
        if len(tensors) == 3 and len({tensor.shape for tensor in tensors}) == 1:
            joint[new] = torch.cat(tensors)
            for name in names.values():
                del state[name]
    return {**state, **joint}


def _with_qkv_biases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = {name: tensor for name, tensor in state.items() if re.fullmatch(r'blocks\.\d+\.attn\.qkv\.weight', name)}
    if any(QKV_BIAS.search(name) for name in state) or any(tensor.ndim != 2 for tensor in weights.values()):
        return state
    biases = {name.removesuffix('weight') + 'bias': tensor.new_zeros(len(tensor)) for name, tensor in weights.items()}
    return {**state, **biases}
