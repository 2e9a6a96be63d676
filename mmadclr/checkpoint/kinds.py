"""What a file or a backbone is that is no plain vision transformer, in words for messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

PLAIN = 'a plain vision transformer with absolute positions'

# What names below the prefix of a patch embedding tell; all patterns of a line have to be found. The first line counts.
FOREIGN = (
    ((r'^storage_tokens$|^rope_embed\.',), 'a DINOv3 vision transformer, with rotary positions (RoPE)'),
    ((r'^reg_token$', r'^blocks\.0\.gamma_1$'), "timm's Eva with registers, as of DINOv3: its positions are rotary (RoPE)"),
    ((r'^rope\.|\.rope\.|freqs_(cos|sin)$|^freqs_cis$',), 'a vision transformer with rotary positions (RoPE), as EVA-02'),
    ((r'^(encoder\.layers|blocks|stages)\.\d+\.blocks\.',), 'a Swin transformer, or another one in stages'),
    ((r'relative_position_bias_table$|rel_pos_bias',), 'a BEiT, or a relative of it, with relative positions'),
    ((r'\.lambda_[12]$',), 'a BEiT or Data2Vec of transformers'),
    ((r'\.attn\.(q_bias$|q_proj\.)',), 'an EVA vision transformer, with rotary positions (RoPE) or gated MLPs (SwiGLU)'),
    ((r'\.attn\.rel_pos_[hw]$',), 'a SAM or ViTDet backbone, with relative positions in its attention'),
    ((r'^norm_pre\.',), 'the image tower of CLIP, which has a norm before its blocks'),
    ((r'^attn_pool\.',), 'the image tower of SigLIP, which has attention pooling'),
    ((r'^blocks\.0\.attns\.',), 'a vision transformer with parallel branches in its blocks'),
    ((r'^patch_embed\.(backbone|conv|stem)\b',), 'a hybrid: a convolutional network below a vision transformer'),
    ((r'^blocks_token_only\.',), 'a CaiT'),
    ((r'^(dist_token|embeddings\.distillation_token)$',), 'a distilled DeiT, with a distillation token'),
    ((r'\.attn\.[qk]_norm\.',), 'a vision transformer with norms of queries and keys'),
    ((r'\.mlp\.(w12|w1|w3|weights_in|fc1_g)\.',), 'a vision transformer with gated MLPs (SwiGLU)'),
)
# What names anywhere tell, where there is no patch embedding that we read.
WHOLE_FILES = (
    (
        (r'(^|\.)_?flat_param(_\d+)?$',),
        'a shard of a run with FSDP: save the full state dict, which has the names of layers',
    ),
    ((r'lora_(A|B|down|up)\.',), 'a set of adapters (LoRA) without the model they belong to'),
    (
        (r'embeddings\.patch_embeddings\.weight$', r'layer\.0\.attention\.q_proj\.'),
        'a DINOv3 vision transformer of transformers, with rotary positions (RoPE)',
    ),
    ((r'embeddings\.patch_embedding\.(weight|bias)$',), 'a CLIP or SigLIP of transformers'),
    ((r'visual\.(conv1\.weight|transformer\.|trunk\.)',), 'a CLIP'),
    ((r'(^|\.)conv_proj\.weight$', r'encoder_layer_0\.'), "torchvision's vision transformer, whose names we do not read"),
    ((r'(^|\.)cls_attn_blocks\.',), 'an XCiT'),
    ((r'(^|\.)patch_embed\w*\d*\.(proj|0)\.', r'\.sr\.|stage\d'), 'a vision transformer in stages, of several resolutions'),
    ((r'layer1\.0\.conv1\.weight$', r'(_head|(^|\.)neck)\.'), 'a detector or segmentor with a ResNet as its backbone'),
    ((r'layer1\.0\.conv1\.weight$',), 'a ResNet, which is a convolutional network'),
    ((r'(^|\.)conv_stem\.weight$|(^|\.)features\.\d+\.',), 'a convolutional network'),
    ((r'(conv_dw|dwconv|depthwise_conv)\.weight$',), 'a convolutional network of depthwise convolutions, as ConvNeXt'),
    ((r'(embed_tokens|word_embeddings|(^|\.)wte)\.weight$',), 'a language model'),
    (
        (
            r'^((mlp|last_layer|projector|predictor|classifier|fc|head\w*)\.)?\d*\.?(weight|bias)(_[gv])?$|(^|\.)last_layer\.',
        ),
        'a head without a backbone',
    ),
)
OPTIMIZER_STATE = re.compile(r'\.(exp_avg(_sq)?|max_exp_avg_sq|momentum_buffer|square_avg|step)$')
OPTIMIZER_KEYS = re.compile(r'^(optim\w*|opt|\w+_optim(izer)?|param_groups|(lr_|param_)?schedulers?|scaler)$', re.IGNORECASE)


def foreign_kind(state: Mapping[str, Tensor]) -> str | None:
    """What a backbone is that cannot be ours, by names as :func:`mmadclr.checkpoint.names.timm_names` gives them.

    None: nothing speaks against a plain vision transformer.
    """
    found = _first(FOREIGN, state)
    return found or _by_shapes(state)


def _by_shapes(state: Mapping[str, Tensor]) -> str | None:
    kernel = state.get('patch_embed.proj.weight')
    if kernel is not None and kernel.ndim == 5:
        return 'a video model, whose patches extend over time'
    if kernel is not None and kernel.ndim == 4:
        _, channels, height, width = kernel.shape
        if channels != 3:
            plural = '' if channels == 1 else 's'
            hint = '; for gray images as RGB, store patch_embed.proj.weight.repeat(1, 3, 1, 1) / 3' if channels == 1 else ''
            return f'a vision transformer for images of {channels} channel{plural} instead of 3{hint}'
        if height != width:
            return f'a vision transformer with patches of {height}x{width} pixels, which are no squares'
    widths = {len(tensor) for name, tensor in state.items() if name.endswith('.norm1.weight') and tensor.ndim == 1}
    if len(widths) > 1:
        return 'a vision transformer in stages, of several widths'
    up, down = (state.get(f'blocks.0.mlp.fc{i}.weight') for i in (1, 2))
    if up is not None and down is not None and up.ndim == down.ndim == 2 and len(up) == 2 * down.shape[1]:
        return 'a vision transformer with gated MLPs (SwiGLU)'
    return None


def whole_file_kind(checkpoint: Mapping[str, Any], names: Iterable[str]) -> str:
    """What a file without a patch embedding is; ``names`` of its tensors, the optimizer's left out."""
    names = list(names)
    if names and not all(OPTIMIZER_STATE.search(name) for name in names):
        found = _first(WHOLE_FILES, names) or _convolutions(checkpoint, names)
        listed = ', '.join(names[:4]) + (f' and {len(names) - 4} more' if len(names) > 4 else '')
        return f'it is {found} ({listed})' if found else f'its tensors are {listed}'
    keys = [str(key) for key in checkpoint]
    if names or any(OPTIMIZER_KEYS.match(key) for key in keys):
        return f'it holds the state of an optimizer and no weights (keys: {", ".join(keys[:6])})'
    if not checkpoint:
        return 'it is an empty dict'
    objects = sorted({type(value).__name__ for value in checkpoint.values()})
    return (
        f'it holds no tensors under names, but {", ".join(objects[:4])}: of objects, nothing is read; save '
        'the state_dict() of the model'
    )


def _convolutions(checkpoint: Mapping[str, Any], names: list[str]) -> str | None:
    """Convolutions without attention, by shape and name at the top level or one below it."""
    flat = dict(checkpoint)
    for value in checkpoint.values():
        flat |= value if isinstance(value, Mapping) else {}
    kernels = sum(isinstance(value, Tensor) and value.ndim == 4 for value in flat.values())
    attends = any('att' in name for name in names)
    return 'a convolutional network' if kernels > 1 and not attends else None


def _first(table: tuple[tuple[tuple[str, ...], str], ...], names: Iterable[str]) -> str | None:
    names = list(names)
    for patterns, meaning in table:
        if all(any(re.search(pattern, name) for name in names) for pattern in patterns):
            return meaning
    return None
