"""Maps tensor names of a backbone from the supported code bases to timm's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

# Name parts that wrappers insert at any level: DataParallel, DistributedDataParallel and averaged models; torch.compile;
# FSDP; activation checkpointing; Lightning's Fabric; fairscale.
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
    r'(?P<prefix>(.*?\.)?)(?P<name>patch_embed\.proj(ection)?|embeddings\.patch_embeddings(\.projection)?)\.weight'
)
# DINOv2, DINOv3, timm's Eva, mmpretrain, mmseg and transformers -> timm's plain vision transformer.
RENAMES = (
    (r'^blocks\.\d+\.(\d+)\.', r'blocks.\1.'),
    (r'^(register|storage)_tokens$', 'reg_token'),
    (r'^rope_embed\.', 'rope.'),
    (r'^(layers|layer|encoder\.layer|model\.layer)\.(?=\d)', 'blocks.'),
    (r'^(blocks\.\d+)\.gamma_([12])$', r'\1.ls\2.gamma'),
    (r'^(blocks\.\d+)\.ln([12])\.', r'\1.norm\2.'),
    (r'\.ffn\.layers\.0\.0\.', '.mlp.fc1.'),
    (r'\.ffn\.layers\.1\.', '.mlp.fc2.'),
    (r'\.ffn\.(w12|w3)\.', r'.mlp.\1.'),
    (r'\.mlp\.(w12|weights_in)\.', '.mlp.fc1.'),
    (r'\.mlp\.(w3|weights_out|down_proj)\.', '.mlp.fc2.'),
    (r'\.attn\.attn\.in_proj_', '.attn.qkv.'),
    (r'\.attn\.attn\.out_proj\.', '.attn.proj.'),
    (r'^ln1\.', 'norm.'),
    (r'\.(attn|ffn)\.gamma([12])\.weight$', r'.ls\2.gamma'),
    (r'^patch_embed\.projection\.', 'patch_embed.proj.'),
    (r'^embeddings\.patch_embeddings\.(projection\.)?', 'patch_embed.proj.'),
    (r'^embeddings\.position_embeddings$', 'pos_embed'),
    (r'^embeddings\.register_tokens$', 'reg_token'),
    (r'^embeddings\.distillation_token$', 'dist_token'),
    (r'^embeddings\.(cls_token|mask_token)$', r'\1'),
    (r'^layernorm\.', 'norm.'),
    (r'^(blocks\.\d+)\.layernorm_before\.', r'\1.norm1.'),
    (r'^(blocks\.\d+)\.layernorm_after\.', r'\1.norm2.'),
    (r'^(blocks\.\d+)\.attention\.(output\.dense|o_proj)\.', r'\1.attn.proj.'),
    (r'^(blocks\.\d+)\.intermediate\.dense\.', r'\1.mlp.fc1.'),
    (r'^(blocks\.\d+)\.output\.dense\.', r'\1.mlp.fc2.'),
    (r'^(blocks\.\d+)\.layer_scale([12])\.lambda1$', r'\1.ls\2.gamma'),
)
# Tensors next to the backbone in flat files: classifiers, poolers, mask tokens, and modules that the code released by
# ADCLR's authors creates but never uses (Sherrylone/PQCL, models/pos_transformer.py); DINOv3's norm for local crops.
NOT_BACKBONE = re.compile(
    r'^(head|head_dist|fc|fc_norm|pre_logits|pooler|decoder\w*|mask_token|masked_embed|norm2|query_block|fpn\d|'
    r'local_cls_norm|projectors)(\.|$)'
)
OF_BACKBONE = re.compile(
    r'^((blocks|layers|layer|encoder\.layer|model\.layer)\.\d+|patch_embed|embeddings|norm|ln1|layernorm|cls_token|reg_token|'
    r'register_tokens|storage_tokens|rope_embed|rope|local_cls_norm|mask_token|pos_embed)(\.|$)'
)
OF_TRANSFORMERS_VIT = '.layernorm_before.weight'  # only in transformers' ViT and MAE, among its supported models


def unwrapped_name(name: str) -> str:
    """A dotted name without the parts added by wrappers."""
    return '.'.join(part for part in name.split('.') if part not in WRAPPERS)


def without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Maps names without wrappers to the names in a file.

    Raises:
        ValueError: Two names are equal without wrappers.
    """
    found: dict[str, str] = {}
    for name in names:
        first = found.setdefault(unwrapped_name(name), name)
        if first != name:
            raise ValueError(
                f'{first!r} and {name!r} are the same name without the parts added by wrappers '
                f'({", ".join(part for part in name.split(".") + first.split(".") if part in WRAPPERS)}): choose one of the '
                'networks with prefix=... (--prefix in the tools)'
            )
    return found


def timm_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a backbone under timm's names, one by one.

    Raises:
        ValueError: Two tensors get the same name.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = timm_name(name)
        if new in state:
            raise ValueError(f'{name!r} and another tensor of the file both map to {new!r} of a vision transformer')
        state[new] = tensor
    return state


def timm_name(name: str) -> str:
    """The name of one tensor; :mod:`mmadclr.checkpoint.joining` joins separate queries, keys, values and gates."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
