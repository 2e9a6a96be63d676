"""Builds a backbone from its checkpoint alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmadclr.checkpoint.architecture import CHANNELS_PER_HEAD, IMAGENET_MEAN, IMAGENET_STD, infer_settings
from mmadclr.checkpoint.families import PROVENANCE
from mmadclr.checkpoint.layouts import BackboneWeights, with_class_position
from mmadclr.checkpoint.reading import read_checkpoint
from mmadclr.checkpoint.weights import fill, implied_periods, pick_backbone
from mmadclr.hub.pretrained import trained_mask_token
from mmadclr.models.backbones.feature_vit import FeatureViT
from mmadclr.models.backbones.query_vit import QueryViT
from mmadclr.models.backbones.rope import RotaryPositions


class OpenedBackbone(NamedTuple):
    """A backbone and its image preprocessing.

    ``model``: frozen, on the CPU. ``settings``: arguments of ``QueryViT`` that describe it. ``img_size``: (height, width)
    of training images. ``mean``, ``std``: per-channel normalization of values in [0, 1]. ``origin``: family, source and
    license of weights of others (:mod:`mmadclr.checkpoint.families`), as far as known. ``mask_token``: (1, D), which masked
    training replaces patches by, if the file has a trained one.
    """

    model: FeatureViT
    settings: dict
    img_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    origin: Mapping[str, str] = MappingProxyType({})
    mask_token: Tensor | None = None


def open_backbone(
    filename: str | Path,
    which: str = 'teacher',
    prefix: str | None = None,
    num_heads: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    facts: Mapping | None = None,
) -> OpenedBackbone:
    """The backbone of any supported checkpoint, with the architecture inferred from the file.

    Args:
        filename, which, prefix, facts: See :func:`mmadclr.checkpoint.load_weights`.
        num_heads: For files of other code bases whose heads do not have 64 channels.
        img_size: Permanently resizes the stored position embedding to another image size. Not required to
            process images of other sizes.

    Raises:
        FileNotFoundError, ValueError: The file cannot be read, has non-finite weights or no plain vision transformer, or is
            a fine-tuned detector, segmentor or classifier without its final norm.
    """
    checkpoint = read_checkpoint(filename)
    weights = with_class_position(pick_backbone(checkpoint, filename, which, prefix, facts))
    settings = check_architecture(filename, weights, num_heads)
    if num_heads is None and weights.num_heads is None and 'rope.periods' not in weights.state:
        heads = settings['arch']['num_heads']
        print_log(
            f'{filename} does not specify its number of attention heads; assuming {heads}, of {CHANNELS_PER_HEAD} channels',
            'current',
        )
    if img_size is not None:
        settings['img_size'] = img_size
    model = FeatureViT(**settings)
    fill(model, weights, filename, allow=('num_heads',), remedy='')
    mean, std = (weights.about.get(key, default) for key, default in (('mean', IMAGENET_MEAN), ('std', IMAGENET_STD)))
    origin = {key: weights.about[key] for key in PROVENANCE if key in weights.about}
    token = trained_mask_token(checkpoint, weights)
    return OpenedBackbone(model, settings, model.patch_embed.img_size, tuple(mean), tuple(std), origin, token)


def check_architecture(filename: str | Path, weights: BackboneWeights, num_heads: int | None = None) -> dict:
    """Settings of a backbone, verified to match its tensors exactly.

    See :func:`mmadclr.checkpoint.architecture.infer_settings`.

    Raises:
        ValueError: It is another kind of model, or has missing, additional or differently shaped tensors.
    """
    try:
        settings = infer_settings(weights, num_heads)
    except ValueError as error:
        raise ValueError(f'{filename}: {error}') from error
    _check_complete(filename, weights)
    with torch.device('meta'):
        model = QueryViT(**settings)
    expected, found = ({name: tuple(t.shape) for name, t in state.items()} for state in (model.state_dict(), weights.state))
    if 'rope' in weights.about:
        expected.pop('rope.periods' if 'rope.periods' not in found else '', None)
    differing = sorted({name for name, _ in expected.items() ^ found.items()})
    if differing:
        examples = '; '.join(f'{n}: file {found.get(n, "-")}, model {expected.get(n, "-")}' for n in differing[:4])
        raise ValueError(
            f'{filename}: {len(differing)} tensors do not match a plain vision transformer of its sizes ({examples}'
            f'{" ..." if len(differing) > 4 else ""})'
        )
    return settings


def completed_state(weights: BackboneWeights, settings: dict) -> dict[str, Tensor]:
    """The tensors of a backbone, with periods of rotary positions if the file has none."""
    if 'rope' not in settings or 'rope.periods' in weights.state:
        return dict(weights.state)
    rope = rotary_positions(settings)
    return {**weights.state, 'rope.periods': implied_periods(rope, weights.about)}


def rotary_positions(settings: Mapping) -> RotaryPositions:
    """Rotary positions of a backbone with these settings of ``QueryViT``."""
    arch = settings['arch']
    return RotaryPositions(arch['embed_dim'] // arch['num_heads'], **settings['rope'])


def _check_complete(filename: str | Path, weights: BackboneWeights) -> None:
    if 'cls_token' in weights.state and 'norm.weight' not in weights.state:
        raise ValueError(
            f'{filename}: the backbone has a class token but no final norm, as in detectors and segmentors that were '
            f'fine-tuned without it{f" (it is below {weights.prefix!r})" if weights.prefix else ""}. Its features are no '
            'longer those of pretraining: use the pretrained checkpoint'
        )
