"""Describes, for error messages, files and backbones that are not plain vision transformers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

PLAIN = 'a plain vision transformer with absolute positions, or the rotary ones of DINOv3'

# Patterns of names below the prefix of a patch embedding; all patterns of a line must match. The first matching line counts.
FOREIGN = (
    (
        (r'^rope\.(?!periods$)|\.rope\.|freqs_(cos|sin)$|^freqs_cis$',),
        'a vision transformer with rotary positions (RoPE) other than those of DINOv3, such as EVA-02',
    ),
    ((r'^(encoder\.layers|blocks|stages)\.\d+\.blocks\.',), 'a Swin or other hierarchical transformer'),
    ((r'relative_position_bias_table$|rel_pos_bias',), 'a BEiT or similar model with relative positions'),
    ((r'\.lambda_[12]$',), 'a BEiT or Data2Vec model from transformers'),
    ((r'\.attn\.(q_bias$|q_proj\.)',), 'an EVA vision transformer, with rotary positions (RoPE) or gated MLPs (SwiGLU)'),
    ((r'\.attn\.rel_pos_[hw]$',), 'a SAM or ViTDet backbone, with relative positions in its attention'),
    ((r'^norm_pre\.',), "CLIP's image tower, which has a norm before its blocks"),
    ((r'^attn_pool\.',), "SigLIP's image tower, which has attention pooling"),
    ((r'^blocks\.0\.attns\.',), 'a vision transformer with parallel branches in its blocks'),
    ((r'^patch_embed\.(backbone|conv|stem)\b',), 'a hybrid: a vision transformer on top of a convolutional network'),
    ((r'^blocks_token_only\.',), 'a CaiT'),
    ((r'\.attn\.[qk]_norm\.',), 'a vision transformer with QK norm'),
    ((r'\.mlp\.(w1|w2|fc1_g|fc1_x|gate_proj|up_proj)\.',), 'a vision transformer with incomplete gated MLPs (SwiGLU)'),
    ((r'\.mlp\.norm\.',), 'a vision transformer with norms in its MLPs'),
)
# Patterns of names anywhere in a file without a patch embedding that we support.
FILE_KINDS = (
    (
        (r'(^|\.)_?flat_param(_\d+)?$',),
        'a shard of an FSDP run: save the full state dict, which has the names of layers (DINOv2 and DINOv3 write one '
        'as eval/ITERATION/teacher_checkpoint.pth)',
    ),
    ((r'lora_(A|B|down|up)\.',), 'LoRA adapters without the base model'),
    ((r'embeddings\.patch_embedding\.(weight|bias)$',), 'a CLIP or SigLIP model from transformers'),
    ((r'visual\.(conv1\.weight|transformer\.|trunk\.)',), 'a CLIP'),
    ((r'(^|\.)conv_proj\.weight$', r'encoder_layer_0\.'), "torchvision's vision transformer, whose names are not supported"),
    ((r'(^|\.)cls_attn_blocks\.',), 'an XCiT'),
    (
        (r'(^|\.)patch_embed\w*\d*\.(proj|0)\.', r'\.sr\.|stage\d'),
        'a hierarchical vision transformer with several resolutions',
    ),
    ((r'layer1\.0\.conv1\.weight$', r'(_head|(^|\.)neck)\.'), 'a detector or segmentor with a ResNet backbone'),
    ((r'layer1\.0\.conv1\.weight$',), 'a ResNet, which is a convolutional network'),
    ((r'(^|\.)conv_stem\.weight$|(^|\.)features\.\d+\.',), 'a convolutional network'),
    (
        (r'(conv_dw|dwconv|depthwise_conv)\.weight$',),
        'a convolutional network with depthwise convolutions, such as ConvNeXt',
    ),
    ((r'(embed_tokens|word_embeddings|(^|\.)wte)\.weight$',), 'a language model'),
    (
        (
            r'^((mlp|last_layer|projector|predictor|classifier|fc|head\w*)\.)?\d*\.?(weight|bias)(_[gv])?$|(^|\.)last_layer\.',
        ),
        'a head without a backbone',
    ),
)
# Names of the heads of detectors and segmentors, in mmdet, mmseg and torchvision.
DETECTOR = re.compile(r'(^|\.)((rpn|roi|bbox|mask|decode|auxiliary|keypoint|panoptic)_heads?|rpn|roi_heads)\.')
OPTIMIZER_STATE = re.compile(r'\.(exp_avg(_sq)?|max_exp_avg_sq|momentum_buffer|square_avg|step)$')
OPTIMIZER_KEYS = re.compile(r'^(optim\w*|opt|\w+_optim(izer)?|param_groups|(lr_|param_)?schedulers?|scaler)$', re.IGNORECASE)


def foreign_kind(state: Mapping[str, Tensor]) -> str | None:
    """Description of a backbone that is not supported, by its names from :func:`mmadclr.checkpoint.names.timm_names`.

    None: nothing contradicts a plain vision transformer.
    """
    found = _first(FOREIGN, state)
    return found or _by_shapes(state)


def _by_shapes(state: Mapping[str, Tensor]) -> str | None:
    kernel = state.get('patch_embed.proj.weight')
    if kernel is not None and kernel.ndim == 5:
        return 'a video model with 3-D patches'
    if kernel is not None and kernel.ndim == 4:
        _, channels, height, width = kernel.shape
        if channels != 3:
            plural = '' if channels == 1 else 's'
            hint = (
                '; to use RGB copies of gray images, store patch_embed.proj.weight.repeat(1, 3, 1, 1) / 3'
                if channels == 1
                else ''
            )
            return f'a vision transformer for images with {channels} channel{plural} instead of 3{hint}'
        if height != width:
            return f'a vision transformer with non-square patches of {height}x{width} pixels'
    widths = {len(tensor) for name, tensor in state.items() if name.endswith('.norm1.weight') and tensor.ndim == 1}
    if len(widths) > 1:
        return 'a hierarchical vision transformer with several widths'
    return None


def file_kind(checkpoint: Mapping[str, Any], names: Iterable[str]) -> str:
    """Description of a file without a patch embedding; ``names`` of its tensors, without the optimizer's."""
    names = list(names)
    if names and not all(OPTIMIZER_STATE.search(name) for name in names):
        found = _first(FILE_KINDS, names) or _convolutions(checkpoint, names)
        listed = ', '.join(names[:4]) + (f' and {len(names) - 4} more' if len(names) > 4 else '')
        return f'it is {found} ({listed})' if found else f'its tensors are {listed}'
    keys = [str(key) for key in checkpoint]
    if names or any(OPTIMIZER_KEYS.match(key) for key in keys):
        return f'it holds an optimizer state and no weights (keys: {", ".join(keys[:6])})'
    if not checkpoint:
        return 'it is an empty dict'
    objects = sorted({type(value).__name__ for value in checkpoint.values()})
    return (
        f'it holds no named tensors, but {", ".join(objects[:4])}: pickled objects are not loaded; save '
        'the state_dict() of the model'
    )


def detector_part(names: Iterable[str], prefix: str) -> list[str]:
    """A remark for files of a detector or segmentor, by a name of one of its heads; ``prefix``: of its backbone."""
    head = next((match for match in map(DETECTOR.search, names) if match), None)
    if head is None:
        return []
    return [
        f'the file also has {head[2]}: it is a detector or segmentor, and the backbone below {prefix!r} was fine-tuned with '
        'it; for the pretrained one, open the checkpoint it started from'
    ]


def _convolutions(checkpoint: Mapping[str, Any], names: list[str]) -> str | None:
    """Whether there are convolutions without attention, by shape and name at the top level or one level below."""
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
