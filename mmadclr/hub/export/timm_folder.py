"""Folders for timm: by architecture name (``local-dir:``), or as a state dict with its sizes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import timm
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from timm.models.vision_transformer import VisionTransformer

from mmadclr.datasets.center_crop import short_side
from mmadclr.hub.export.formats import CONFIG, WEIGHTS, Features, Format, split_tokens
from mmadclr.hub.export.plain import plain_vit, vision_transformer_arguments
from mmadclr.hub.opening import OpenedBackbone
from mmadclr.models.backbones.query_vit import SIZES, resolve_arch

NAMES = {192: 'tiny', 384: 'small', 768: 'base', 1024: 'large', 1280: 'huge'}
NEAREST = 'vit_small_patch16_224'  # any plain ViT works: all its sizes are overridden
CROP_RATIO = 7 / 8


class TimmFolder(Format):
    """``model.safetensors`` and ``config.json`` in the format of timm's models on the hub."""

    loaders, norm_eps = 'timm', 1e-6
    preparation = ' So does `timm.data.create_transform(**timm.data.resolve_model_data_config(model))`.'

    def write(self, opened: OpenedBackbone, folder: Path) -> None:
        arguments = vision_transformer_arguments(opened.model)
        name = timm_name({key: arguments[key] for key in SIZES})
        given = arguments if name == NEAREST else {k: v for k, v in arguments.items() if k not in SIZES}
        model = timm.create_model(name, pretrained_cfg=pretrained_cfg(opened), **given)
        model.load_state_dict(opened.model.state_dict())
        save_for_hf(model, str(folder), model_args=given, safe_serialization=True)

    def load(self, folder: Path) -> Features:
        return features_of(timm.create_model(f'local-dir:{folder}', pretrained=True).eval())

    def snippet(self, opened: OpenedBackbone, folder: str) -> str:
        return f"import timm\nmodel = timm.create_model('local-dir:{folder}', pretrained=True).eval()\n{_forward(opened)}"

    def keeps_rule(self, opened: OpenedBackbone) -> bool:
        return opened.model.pos_embed_resize == 'size'


class SafetensorsFolder(TimmFolder):
    """The same tensors, with the arguments of ``VisionTransformer`` in ``config.json``."""

    loaders, preparation = 'safetensors and timm', ''

    def write(self, opened: OpenedBackbone, folder: Path) -> None:
        config = dict(
            vision_transformer=vision_transformer_arguments(opened.model),
            mean=opened.mean,
            std=opened.std,
            pos_embed_resize=opened.model.pos_embed_resize,
        )
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + '\n')
        save_file(plain_vit(opened.model).state_dict(), folder / WEIGHTS)

    def load(self, folder: Path) -> Features:
        model = VisionTransformer(**json.loads((folder / CONFIG).read_text())['vision_transformer']).eval()
        model.load_state_dict(load_file(folder / WEIGHTS))
        return features_of(model)

    def snippet(self, opened: OpenedBackbone, folder: str) -> str:
        return (
            'import json\nfrom safetensors.torch import load_file\nfrom timm.models import VisionTransformer\n'
            f"model = VisionTransformer(**json.load(open('{folder}/{CONFIG}'))['vision_transformer']).eval()\n"
            f"model.load_state_dict(load_file('{folder}/{WEIGHTS}'))\n{_forward(opened)}"
        )


def features_of(model: VisionTransformer) -> Features:
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
    )


def crop_ratio(size: int) -> float:
    """The cropped fraction of the short side for which timm's rounding gives the same short side as our transform."""
    resized = short_side(size)
    return CROP_RATIO if math.floor(size / CROP_RATIO) == resized else size / (resized + 0.5)


def _forward(opened: OpenedBackbone) -> str:
    prefix = opened.model.num_prefix_tokens
    what = 'tokens[:, 0] is [CLS], ' if opened.model.cls_token is not None else ''
    return f'tokens = model.forward_features(images)  # {what}tokens[:, {prefix}:] are the patches\n'
