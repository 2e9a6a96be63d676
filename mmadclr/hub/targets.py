"""Verifies that a written file loads into the library it was written for."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from types import ModuleType

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mmadclr.hub.export.eva import eva_recipe
from mmadclr.hub.export.plain import GATED, is_gated, vision_transformer_arguments
from mmadclr.hub.opening import rotary_positions
from mmadclr.models.backbones.query_vit import QueryViT

# timm -> mmpretrain; mmseg's names differ from mmpretrain's only in attention.
MMPRETRAIN_NAMES = (
    (r'^norm\.', 'ln1.'),
    (r'^blocks\.', 'layers.'),
    (r'^(layers\.\d+)\.norm([12])\.', r'\1.ln\2.'),
    (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
    (r'\.ls1\.gamma$', '.attn.gamma1.weight'),
    (r'\.ls2\.gamma$', '.ffn.gamma2.weight'),
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
)
MMSEG_NAMES = (*MMPRETRAIN_NAMES, (r'\.attn\.qkv\.', '.attn.attn.in_proj_'), (r'\.attn\.proj\.', '.attn.attn.out_proj.'))
MM_NAMES = {'mmpretrain': MMPRETRAIN_NAMES, 'mmseg': MMSEG_NAMES}
GATED_NAMES = ((r'\.mlp\.fc1\.', '.ffn.w12.'), (r'\.mlp\.fc2\.', '.ffn.w3.'))  # of mmpretrain


def mm_name(name: str, package: str, gated: bool = False) -> str:
    """mmpretrain's or mmseg's name of a tensor, from timm's; ``gated``: of a backbone with gated layers."""
    for pattern, replacement in (*(GATED_NAMES if gated else ()), *MM_NAMES[package]):
        name = re.sub(pattern, replacement, name)
    return name


def check_timm(tensors: Mapping[str, Tensor], settings: dict) -> None:
    """Checks that the tensors of a file match timm's model exactly.

    Args:
        tensors: As read back.
        settings: Arguments of the matching ``QueryViT``.

    Raises:
        ValueError: They do not.
    """
    _load(timm_model(settings), tensors, 'timm')


def check_mm(tensors: Mapping[str, Tensor], settings: dict, package: str) -> None:
    """As :func:`check_timm` for mmpretrain and mmseg, with names below ``backbone.``.

    If the package cannot be imported, compares only names and shapes, with those of timm's model.

    Raises:
        ValueError: The tensors do not match.
    """
    gated, model = settings.get('ffn') == 'swiglu', timm_model(settings)
    expected = {f'backbone.{mm_name(name, package, gated)}': t.shape for name, t in model.state_dict().items()}
    differing = sorted({name for name, _ in expected.items() ^ {name: t.shape for name, t in tensors.items()}.items()})
    if differing:
        raise ValueError(f'{len(differing)} names or shapes in the new file do not match {package} ({differing[0]})')
    models = _models(package)
    if models is not None:
        model = (_mmpretrain if package == 'mmpretrain' else _mmseg)(models, settings)
        _load(model, {name.removeprefix('backbone.'): tensor for name, tensor in tensors.items()}, package)


def timm_model(settings: dict) -> nn.Module:
    """timm's model of these sizes, on the meta device.

    Raises:
        ValueError: timm does not support its rotary positions.
    """
    with torch.device('meta'):
        model = QueryViT(**settings)
    if model.rope is not None:
        model.rope = rotary_positions(settings)  # with values, which are compared with those of timm
        recipe = eva_recipe(model)
        with torch.device('meta'):
            return timm.create_model(recipe.name, **recipe.arguments)
    with torch.device('meta'):
        classes = GATED if is_gated(model) else {}
        return VisionTransformer(weight_init='skip', **vision_transformer_arguments(model), **classes)


def _load(model: nn.Module, tensors: Mapping[str, Tensor], library: str) -> None:
    try:
        model.load_state_dict(dict(tensors), strict=True, assign=True)
    except RuntimeError as error:
        said = '; '.join(line.strip() for line in str(error).splitlines()[1:3])
        raise ValueError(f'the new file does not load into the vision transformer of {library}: {said}') from error
    loaded = model.state_dict()
    if not all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items()):
        raise ValueError(f'the vision transformer of {library} differs from the new file after loading it')


def _models(package: str) -> ModuleType | None:
    try:
        importlib.import_module('mmadclr.ops')  # replaces missing compiled operations
        return importlib.import_module(f'{package}.models')
    except ImportError:
        return None


def _mmpretrain(models: ModuleType, settings: dict) -> nn.Module:
    arch = settings['arch']
    sizes = dict(embed_dims=arch['embed_dim'], num_layers=arch['depth'], num_heads=arch['num_heads'])
    sizes['feedforward_channels'] = _feedforward_channels(settings)
    has_cls = settings['class_token']
    return models.VisionTransformer(
        sizes,
        img_size=settings['img_size'],
        patch_size=arch['patch_size'],
        final_norm=settings['final_norm'],
        with_cls_token=has_cls,
        out_type='raw' if has_cls else 'featmap',
        layer_scale_init_value=settings.get('layer_scale') or 0.0,
        layer_cfgs=dict(ffn_type='swiglu_fused') if settings.get('ffn') == 'swiglu' else {},
    )


def _feedforward_channels(settings: dict) -> int:
    """The argument from which mmpretrain derives the width of the layers; of gated ones, two thirds rounded up to eights.

    Raises:
        ValueError: No argument gives this width.
    """
    hidden = int(settings['arch']['embed_dim'] * settings['arch']['mlp_ratio'])
    if settings.get('ffn') != 'swiglu':
        return hidden
    if hidden % 8:
        raise ValueError(f'the gated layers of mmpretrain have a multiple of 8 channels, those of this backbone {hidden}')
    return hidden * 3 // 2


def _mmseg(models: ModuleType, settings: dict) -> nn.Module:
    arch = settings['arch']
    if arch['mlp_ratio'] != int(arch['mlp_ratio']):
        raise ValueError(f"mmseg's MLPs require an integer mlp_ratio, not {arch['mlp_ratio']:g}")
    return models.VisionTransformer(
        settings['img_size'],
        arch['patch_size'],
        embed_dims=arch['embed_dim'],
        num_layers=arch['depth'],
        num_heads=arch['num_heads'],
        mlp_ratio=int(arch['mlp_ratio']),
        norm_cfg=dict(type='LN', eps=1e-6),
        final_norm=settings['final_norm'],
        patch_bias=True,
        output_cls_token=True,
    )
