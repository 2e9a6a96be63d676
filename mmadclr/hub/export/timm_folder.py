"""Folders for timm: by architecture name (``local-dir:``), or as a state dict with its sizes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from mmadclr.checkpoint.architecture import USUAL_EPS
from mmadclr.checkpoint.library_config import OWN_KEY
from mmadclr.datasets.center_crop import short_side
from mmadclr.hub.export.eva import EPS, Recipe, eva_recipe, eva_state, rope_base, with_computed_periods
from mmadclr.hub.export.formats import CONFIG, WEIGHTS, Features, Format, own_facts, split_tokens
from mmadclr.hub.export.plain import effective_state, is_gated, vision_transformer_arguments
from mmadclr.hub.opening import OpenedBackbone
from mmadclr.models.backbones.query_vit import SIZES, QueryViT, resolve_arch

NAMES = {192: 'tiny', 384: 'small', 768: 'base', 1024: 'large', 1280: 'huge'}
NEAREST = 'vit_small_patch16_224'  # any plain ViT works: all its sizes are overridden
GATED_ARCH = 'vit_giant_patch14_dinov2'  # likewise, with gated layers
CROP_RATIO = 7 / 8


class TimmFolder(Format):
    """``model.safetensors`` and ``config.json`` in the format of timm's models on the hub."""

    loaders = 'timm'
    preparation = ' So does `timm.data.create_transform(**timm.data.resolve_model_data_config(model))`.'

    def check(self, opened: OpenedBackbone) -> None:
        if opened.model.rope is None:
            return
        timm_state(opened.model)
        rope_base(opened.model.rope)
        eps = opened.model.blocks[0].norm1.eps
        if eps != EPS:  # the difference is too small to be found reliably by comparing features
            raise ValueError(
                f"norms of this backbone have eps={eps:g}, those of timm's DINOv3 eps={EPS:g}; use the format hf"
            )

    def write(self, opened: OpenedBackbone, folder: Path) -> None:
        recipe = timm_recipe(opened.model)
        given = recipe.options if recipe.is_exact else recipe.arguments
        model = timm.create_model(recipe.name, pretrained_cfg=pretrained_cfg(opened), **given)
        model.load_state_dict(timm_state(opened.model))
        save_for_hf(model, str(folder), model_args=given, safe_serialization=True)
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**config, OWN_KEY: own_facts(opened)}, indent=2) + '\n')

    def load(self, folder: Path) -> Features:
        return features_of(timm.create_model(f'local-dir:{folder}', pretrained=True).eval())

    def snippet(self, opened: OpenedBackbone, folder: str) -> str:
        place = f'hf-hub:{folder}' if '/' in folder else f'local-dir:{folder}'
        return f"import timm\nmodel = timm.create_model('{place}', pretrained=True).eval()\n{_forward(opened)}"

    def keeps_rule(self, opened: OpenedBackbone) -> bool:
        return opened.model.rope is not None or opened.model.pos_embed_resize == 'size'

    def norm_eps(self, opened: OpenedBackbone) -> float:
        return USUAL_EPS if opened.model.rope is None else EPS

    def exported(self, opened: OpenedBackbone) -> OpenedBackbone:
        return with_computed_periods(opened)


class SafetensorsFolder(TimmFolder):
    """The same tensors, with the arguments of ``VisionTransformer`` in ``config.json``.

    If JSON cannot express the arguments (gated layers, rotary positions), they are those of a named architecture of timm.
    """

    loaders, preparation = 'safetensors and timm', ''

    def write(self, opened: OpenedBackbone, folder: Path) -> None:
        recipe = timm_recipe(opened.model)
        named = {} if is_plain(opened.model) else dict(architecture=recipe.name)
        config = dict(
            vision_transformer=recipe.arguments,
            **named,
            mean=opened.mean,
            std=opened.std,
            pos_embed_resize=opened.model.pos_embed_resize,
        )
        (folder / CONFIG).write_text(json.dumps({**config, OWN_KEY: own_facts(opened)}, indent=2) + '\n')
        save_file({name: tensor.contiguous() for name, tensor in timm_state(opened.model).items()}, folder / WEIGHTS)

    def load(self, folder: Path) -> Features:
        config = json.loads((folder / CONFIG).read_text())
        arguments, name = config['vision_transformer'], config.get('architecture')
        model = VisionTransformer(**arguments) if name is None else timm.create_model(name, **arguments)
        model.load_state_dict(load_file(folder / WEIGHTS))
        return features_of(model.eval())

    def snippet(self, opened: OpenedBackbone, folder: str) -> str:
        lines = ['import json', 'from safetensors.torch import load_file']
        if is_plain(opened.model):
            lines += [
                'from timm.models import VisionTransformer',
                f"model = VisionTransformer(**json.load(open('{folder}/{CONFIG}'))['vision_transformer']).eval()",
            ]
        else:
            lines += [
                'import timm',
                f"config = json.load(open('{folder}/{CONFIG}'))",
                "model = timm.create_model(config['architecture'], **config['vision_transformer']).eval()",
            ]
        lines += [f"model.load_state_dict(load_file('{folder}/{WEIGHTS}'))", _forward(opened)]
        return '\n'.join(lines)


def is_plain(model: QueryViT) -> bool:
    """Whether JSON can express the arguments of timm's ``VisionTransformer``."""
    return model.rope is None and not is_gated(model)


def timm_recipe(model: QueryViT) -> Recipe:
    """timm's model of a backbone.

    Raises:
        ValueError: timm does not support its rotary positions.
    """
    if model.rope is not None:
        return eva_recipe(model)
    arguments = vision_transformer_arguments(model)
    sizes = {key: arguments.pop(key) for key in SIZES}
    if is_gated(model):
        return Recipe(GATED_ARCH, {**arguments, 'init_values': model.layer_scale or 0.0}, sizes, False)
    name = timm_name(sizes)
    return Recipe(name, arguments, sizes, name != NEAREST)


def timm_state(model: QueryViT) -> dict[str, Tensor]:
    """The tensors of a backbone under timm's names.

    Raises:
        ValueError: It has biases of keys that timm's model does not support.
    """
    return effective_state(model) if model.rope is None else eva_state(model)


def features_of(model: Any) -> Features:
    """Split tokens of a timm model."""
    has_cls, num_prefix = model.cls_token is not None, model.num_prefix_tokens
    return lambda images: split_tokens(model.forward_features(images), has_cls, num_prefix)


def timm_name(sizes: dict) -> str:
    """timm's architecture with these sizes if there is one, otherwise one whose sizes are overridden."""
    name = f'vit_{NAMES.get(sizes["embed_dim"])}_patch{sizes["patch_size"]}_224'
    return name if timm.is_model(name) and resolve_arch(name) == sizes else NEAREST


def pretrained_cfg(opened: OpenedBackbone) -> dict:
    """Image preprocessing in timm's format."""
    return dict(
        input_size=(3, *opened.img_size),
        mean=opened.mean,
        std=opened.std,
        interpolation='bicubic',
        crop_pct=crop_ratio(min(opened.img_size)),
        crop_mode='center',
        num_classes=0,
        first_conv='patch_embed.proj',
        classifier='head',
        **{key: opened.origin[key] for key in ('license',) if key in opened.origin},
    )


def crop_ratio(size: int) -> float:
    """The cropped fraction of the short side for which timm's rounding gives the same short side as our transform."""
    resized = short_side(size)
    return CROP_RATIO if math.floor(size / CROP_RATIO) == resized else size / (resized + 0.5)


def _forward(opened: OpenedBackbone) -> str:
    prefix = opened.model.num_prefix_tokens
    what = 'tokens[:, 0] is [CLS], ' if opened.model.cls_token is not None else ''
    return f'tokens = model.forward_features(images)  # {what}tokens[:, {prefix}:] are the patches\n'
