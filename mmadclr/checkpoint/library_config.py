"""Reads facts about a backbone from the ``config.json`` of transformers, timm or our own exports."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TypeGuard

import timm
import torch

from mmadclr.checkpoint.families import PROVENANCE, family_of_model, provenance

CONFIG, PREPROCESSOR = 'config.json', 'preprocessor_config.json'
RESIZE_RULES = ('dino', 'dino_antialias', 'size', 'size_aliased')  # of QueryViT
ROPE_KEYS = ('base', 'min_period', 'max_period', 'normalize_coords')  # of RotaryPositions, without those for training
# Keys that our exports add to the configs of libraries: how positions are resized, whether layer scales were learned, exact
# periods of rotary positions, and where the weights come from.
OWN_KEY = 'mmadclr'
OWN_FACTS = ('pos_embed_resize', 'layer_scale', 'norm_eps', 'qkv_bias', 'rope', 'rope_periods', *PROVENANCE)
# transformers' plain vision transformers, with defaults for keys that a config may omit.
TRANSFORMERS: dict[str, dict[str, Any]] = {
    'vit': dict(num_attention_heads=12, layer_norm_eps=1e-12),
    'vit_mae': dict(num_attention_heads=12, layer_norm_eps=1e-12),
    'deit': dict(num_attention_heads=12, layer_norm_eps=1e-12),
    'vit_msn': dict(num_attention_heads=12, layer_norm_eps=1e-6),
    'ijepa': dict(num_attention_heads=12, layer_norm_eps=1e-12),
    'dinov2': dict(num_attention_heads=12, layer_norm_eps=1e-6),
    'dinov2_with_registers': dict(num_attention_heads=12, layer_norm_eps=1e-6),
    'dinov3_vit': dict(num_attention_heads=6, layer_norm_eps=1e-5, rope_theta=100.0, image_size=224),
}
FOREIGN = {
    'dinov3_convnext': 'a convolutional network',
    'convnext': 'a convolutional network',
    'resnet': 'a convolutional network',
}


def read_facts(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Facts in a config: ``num_heads``, ``norm_eps``, ``img_size`` (height, width), ``mean`` and ``std``, ``rope``
    (arguments of rotary positions), those of ``OWN_FACTS``, and whether it is a config of our exports (``own``); only
    those available.

    Args:
        checkpoint: Contents of a folder, from :func:`mmadclr.checkpoint.reading.read_checkpoint`.

    Raises:
        ValueError: The config is that of another kind of model, or has an invalid value.
    """
    config = checkpoint.get(CONFIG)
    if not isinstance(config, Mapping):
        return {}
    own = config.get(OWN_KEY)
    facts = _of_library(config, checkpoint)
    if not isinstance(own, Mapping):
        return facts
    facts = {key: value for key, value in facts.items() if key not in PROVENANCE}
    return {**facts, 'own': True, **{key: own[key] for key in OWN_FACTS if key in own}}


def _of_library(config: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    if 'model_type' in config:
        facts = _of_transformers(config)
        preprocessor = checkpoint.get(PREPROCESSOR)
        return {**_normalization(preprocessor), **facts} if isinstance(preprocessor, Mapping) else facts
    if isinstance(config.get('vision_transformer'), Mapping):
        return _of_own_folder(config)
    return _of_timm(config) if isinstance(config.get('pretrained_cfg'), Mapping) else {}


def checked_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Validates types and values.

    Raises:
        ValueError: A value is invalid.
    """
    checked = dict(facts)
    if 'img_size' in checked:
        checked['img_size'] = _size(checked, 'img_size')
    if checked.get('pos_embed_resize', 'dino') not in RESIZE_RULES:
        raise ValueError(
            f'pos_embed_resize={checked["pos_embed_resize"]!r} must be one of {", ".join(map(repr, RESIZE_RULES))}'
        )
    for key in {'mean', 'std'} & checked.keys():
        checked[key] = _triple(checked, key)
    if 'norm_eps' in checked:
        checked['norm_eps'] = _positive(checked, 'norm_eps')
    if checked.get('qkv_bias', True) not in (True, False, 'qv'):
        raise ValueError(f"qkv_bias={checked['qkv_bias']!r} must be True, False or 'qv'")
    if 'rope' in checked:
        checked['rope'] = _rope(checked['rope'])
    for key in PROVENANCE:
        if not isinstance(checked.get(key, ''), str):
            raise ValueError(f'{key}={checked[key]!r} must be a text')
    return checked


def _rope(value: Any) -> dict[str, Any]:
    """Arguments of rotary positions; their values are checked where they are built."""
    if not isinstance(value, Mapping) or value.keys() - set(ROPE_KEYS):
        raise ValueError(f'rope={value!r} must be a dict of {", ".join(ROPE_KEYS)}')
    return dict(value)


def _of_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    kind = config['model_type']
    if not isinstance(kind, str) or kind not in TRANSFORMERS:
        what = FOREIGN.get(str(kind), 'not a supported plain vision transformer')
        raise ValueError(f'{CONFIG}: model_type {kind!r} is {what}; supported: {", ".join(TRANSFORMERS)}')
    config = {**TRANSFORMERS[kind], **config}
    _check_activation(config)
    facts: dict[str, Any] = {'num_heads': _count(config, 'num_attention_heads')}
    facts['norm_eps'] = _positive(config, 'layer_norm_eps')
    if 'image_size' in config:
        facts['img_size'] = _size(config, 'image_size')
    if kind == 'dinov3_vit':
        parameters = config.get('rope_parameters')  # of transformers 5
        where = parameters if isinstance(parameters, Mapping) and 'rope_theta' in parameters else config
        facts['rope'] = {'base': _positive(where, 'rope_theta')}
    name = config.get('_name_or_path')
    family = family_of_model(name) if isinstance(name, str) else None
    family = 'mae' if kind == 'vit_mae' else family
    if isinstance(name, str) and name and family:
        return {**facts, **provenance(family, name)}
    return {**facts, **({'family': family} if family else {})}


def _check_activation(config: Mapping[str, Any]) -> None:
    """Gated MLPs of DINOv2 always have the SiLU, those of DINOv3 the configured function.

    Raises:
        ValueError: The model computes something else than ours.
    """
    activation = config.get('hidden_act', 'gelu')
    if config.get('use_swiglu_ffn'):
        return
    expected = 'silu' if config.get('use_gated_mlp') else 'gelu'
    if activation != expected:
        raise ValueError(
            f'{CONFIG}: hidden_act {activation!r} is not supported; it must be '
            + ('silu in gated MLPs' if expected == 'silu' else 'the exact gelu')
        )


def _of_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    arguments, images = config.get('model_args'), config['pretrained_cfg']
    arguments = arguments if isinstance(arguments, Mapping) else {}
    facts: dict[str, Any] = {key: _triple(images, key) for key in ('mean', 'std') if key in images}
    name = config.get('architecture')
    if isinstance(name, str):
        facts |= _of_architecture(name, arguments, images) | _origin_in_timm(name, images)
    if 'num_heads' in arguments:
        facts['num_heads'] = _count(arguments, 'num_heads')
    if 'img_size' in arguments:
        facts['img_size'] = _size(arguments, 'img_size')
    return facts


def _of_architecture(name: str, arguments: Mapping[str, Any], images: Mapping[str, Any]) -> dict[str, Any]:
    """What timm's model of this name says about itself; nothing if this version of timm cannot build it."""
    try:
        with torch.device('meta'):
            model = timm.create_model(name, **{**arguments, 'num_classes': 0})
        block = model.blocks[0]
        facts = dict(num_heads=block.attn.num_heads, norm_eps=block.norm1.eps)
    except Exception:  # of any kind, since the arguments come from a file; the tensors are checked all the same
        return {}
    rope: Any = getattr(model, 'rope', None)
    if type(rope).__name__ == 'RotaryEmbeddingDinoV3':
        facts |= dict(rope=dict(base=rope.temperature), qkv_bias='qv' if block.attn.q_bias is not None else False)
        size = images.get('input_size')
        facts |= {'img_size': tuple(size[1:])} if isinstance(size, (list, tuple)) and len(size) == 3 else {}
    return facts


def _origin_in_timm(name: str, images: Mapping[str, Any]) -> dict[str, str]:
    tag, license = images.get('tag'), images.get('license')
    if not isinstance(tag, str) or not tag:
        return {}
    full = f'{name}.{tag}'
    return provenance(family_of_model(full), f'timm/{full}', license if isinstance(license, str) else None)


def _of_own_folder(config: Mapping[str, Any]) -> dict[str, Any]:
    arguments = config['vision_transformer']
    facts: dict[str, Any] = {key: _triple(config, key) for key in ('mean', 'std') if key in config}
    facts |= dict(own=True, num_heads=_count(arguments, 'num_heads'), img_size=_size(arguments, 'img_size'))
    return {**facts, **{key: config[key] for key in ('pos_embed_resize',) if key in config}}


def _normalization(preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """For values in [0, 1]; transformers multiplies values up to 255 by ``rescale_factor`` before it normalizes."""
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
        raise ValueError(f'{key}={value!r} must be an integer of at least 1')
    return value


def _is_number(value: Any) -> TypeGuard[float]:
    """Whether the value is a finite number that fits a float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _positive(config: Mapping[str, Any], key: str) -> float:
    value = config.get(key)
    if not _is_number(value) or value <= 0:
        raise ValueError(f'{key}={value!r} must be a positive number')
    return float(value)


def _size(config: Mapping[str, Any], key: str) -> tuple[int, int]:
    value = config.get(key)
    sides = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(sides) != 2:
        raise ValueError(f'{key}={value!r} must be one side length, or height and width')
    height, width = (_count({key: side}, key) for side in sides)
    return height, width


def _triple(config: Mapping[str, Any], key: str) -> tuple[float, ...]:
    values = config[key]
    if not isinstance(values, (list, tuple)) or len(values) != 3 or not all(map(_is_number, values)):
        raise ValueError(f'{key}={values!r} must be a list of three numbers')
    if key.endswith('std') and min(values) <= 0:
        raise ValueError(f'{key}={values!r} must be positive: images are divided by it')
    return tuple(float(value) for value in values)
