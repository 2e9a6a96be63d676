"""What the ``config.json`` beside weights tells of a backbone: that of transformers, of timm, or of our own exports."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TypeGuard

CONFIG, PREPROCESSOR = 'config.json', 'preprocessor_config.json'
# What our exports add to the configs of transformers: how positions are resized, and whether layer scales were learned.
RESIZE_RULES = ('dino', 'dino_antialias', 'size', 'size_aliased')  # of QueryViT
OWN_KEY, OWN_FACTS = 'mmadclr', ('pos_embed_resize', 'layer_scale')
# Vision transformers of transformers that are plain ones, with the defaults of what a config may leave out.
TRANSFORMERS: dict[str, dict[str, Any]] = {
    'vit': dict(num_attention_heads=12, layer_norm_eps=1e-12),
    'vit_mae': dict(num_attention_heads=12, layer_norm_eps=1e-12),
    'vit_msn': dict(num_attention_heads=12, layer_norm_eps=1e-6),
    'ijepa': dict(num_attention_heads=12, layer_norm_eps=1e-12),
    'dinov2': dict(num_attention_heads=12, layer_norm_eps=1e-6),
    'dinov2_with_registers': dict(num_attention_heads=12, layer_norm_eps=1e-6),
}
FOREIGN = {
    'dinov3_vit': 'a DINOv3 vision transformer, with rotary positions (RoPE)',
    'dinov3_convnext': 'a convolutional network',
    'deit': 'a distilled DeiT, with a distillation token',
    'convnext': 'a convolutional network',
    'resnet': 'a convolutional network',
}


def read_facts(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """``num_heads``, ``norm_eps``, ``img_size`` (height, width), ``pos_embed_resize``, ``layer_scale``, ``mean`` and
    ``std``, as far as they are told.

    Args:
        checkpoint: Of a folder, as :func:`mmadclr.checkpoint.reading.read_checkpoint` reads it.

    Raises:
        ValueError: The config is that of another kind of model, or a value in it is impossible.
    """
    config = checkpoint.get(CONFIG)
    if not isinstance(config, Mapping):
        return {}
    if 'model_type' in config:
        facts = _of_transformers(config)
        preprocessor = checkpoint.get(PREPROCESSOR)
        return {**_normalization(preprocessor), **facts} if isinstance(preprocessor, Mapping) else facts
    if isinstance(config.get('vision_transformer'), Mapping):
        return _of_own_folder(config)
    return _of_timm(config) if isinstance(config.get('pretrained_cfg'), Mapping) else {}


def checked_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The same, once it is certain that each is of its type.

    Raises:
        ValueError: One is not.
    """
    checked = dict(facts)
    if 'img_size' in checked:
        checked['img_size'] = _size(checked, 'img_size')
    if checked.get('pos_embed_resize', 'dino') not in RESIZE_RULES:
        raise ValueError(f'pos_embed_resize={checked["pos_embed_resize"]!r} is none of {", ".join(map(repr, RESIZE_RULES))}')
    for key in {'mean', 'std'} & checked.keys():
        checked[key] = _triple(checked, key)
    if 'norm_eps' in checked:
        checked['norm_eps'] = _positive(checked, 'norm_eps')
    return checked


def _of_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    kind = config['model_type']
    if not isinstance(kind, str) or kind not in TRANSFORMERS:
        what = FOREIGN.get(str(kind), 'none of the plain vision transformers that we read')
        raise ValueError(f'{CONFIG}: model_type {kind!r} is {what}; read are {", ".join(TRANSFORMERS)}')
    config = {**TRANSFORMERS[kind], **config}
    activation = config.get('hidden_act', 'gelu')
    if activation != 'gelu' and not config.get('use_swiglu_ffn'):  # gated MLPs are told by their names
        raise ValueError(f'{CONFIG}: hidden_act {activation!r}: the MLPs of our vision transformer have an exact gelu')
    facts: dict[str, Any] = {'num_heads': _count(config, 'num_attention_heads')}
    facts['norm_eps'] = _positive(config, 'layer_norm_eps')
    if 'image_size' in config:
        facts['img_size'] = _size(config, 'image_size')
    own = config.get(OWN_KEY)
    return {**facts, **({key: own[key] for key in OWN_FACTS if key in own} if isinstance(own, Mapping) else {})}


def _of_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    arguments, images = config.get('model_args'), config['pretrained_cfg']
    arguments = arguments if isinstance(arguments, Mapping) else {}
    facts: dict[str, Any] = {key: _triple(images, key) for key in ('mean', 'std') if key in images}
    if 'num_heads' in arguments:
        facts['num_heads'] = _count(arguments, 'num_heads')
    if 'img_size' in arguments:
        facts['img_size'] = _size(arguments, 'img_size')
    return facts


def _of_own_folder(config: Mapping[str, Any]) -> dict[str, Any]:
    arguments = config['vision_transformer']
    facts: dict[str, Any] = {key: _triple(config, key) for key in ('mean', 'std') if key in config}
    facts |= dict(num_heads=_count(arguments, 'num_heads'), img_size=_size(arguments, 'img_size'))
    return {**facts, **{key: config[key] for key in ('pos_embed_resize',) if key in config}}


def _normalization(preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """Of values in [0, 1]; transformers multiplies those up to 255 by ``rescale_factor`` before it normalizes."""
    if 'image_mean' not in preprocessor or 'image_std' not in preprocessor:
        return {}
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if preprocessor.get('do_normalize', True):
        mean, std = (_triple(preprocessor, key) for key in ('image_mean', 'image_std'))
    factor = 255 * _positive({'rescale_factor': 1 / 255, **preprocessor}, 'rescale_factor')
    if abs(factor - 1) > 1e-3:
        mean, std = (tuple(value / factor for value in values) for values in (mean, std))
    return dict(mean=mean, std=std)


def _count(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f'{key}={value!r} is no whole number of 1 or more')
    return value


def _is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a number that a float can be, and finite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _positive(config: Mapping[str, Any], key: str) -> float:
    value = config.get(key)
    if not _is_number(value) or value <= 0:
        raise ValueError(f'{key}={value!r} is no positive number')
    return float(value)


def _size(config: Mapping[str, Any], key: str) -> tuple[int, int]:
    value = config.get(key)
    sides = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(sides) != 2:
        raise ValueError(f'{key}={value!r} is neither a side nor a height and a width')
    height, width = (_count({key: side}, key) for side in sides)
    return height, width


def _triple(config: Mapping[str, Any], key: str) -> tuple[float, ...]:
    values = config[key]
    if not isinstance(values, (list, tuple)) or len(values) != 3 or not all(map(_is_number, values)):
        raise ValueError(f'{key}={values!r} is no list of three numbers')
    if key.endswith('std') and min(values) <= 0:
        raise ValueError(f'{key}={values!r}: images are divided by these numbers, which have to be positive')
    return tuple(float(value) for value in values)
