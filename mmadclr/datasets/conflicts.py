"""Settings of crops and paths that cannot work in the config of a pretraining run; the classes that have them ask here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from mmadclr.config.components import Place
from mmadclr.config.findings import Finding
from mmadclr.urls import is_url

BACKBONE = 'model.backbone'


def patch_size(place: Place) -> int | None:
    """Pixels along a side of the backbone's patches; None where the config does not tell.

    Backbones that derive it from other settings have a class method ``patch_size_of(settings)``.
    """
    backbone = place.at(BACKBONE)
    derive = getattr(backbone.component, 'patch_size_of', None)
    size = derive(backbone.settings) if derive else backbone.settings.get('patch_size')
    return size if isinstance(size, int) else None


def size_conflicts(place: Place, key: str) -> Iterator[Finding]:
    """A size of images or crops that is not made of whole patches."""
    size, patch = place.settings[key], patch_size(place)
    if size < 0 or (patch and size % patch):
        text = f'{place.path}.{key}={size} must be a multiple of the {patch} pixels of a patch ({BACKBONE}.arch)'
        yield Finding(text if patch else f'{place.path}.{key}={size} must not be negative')


def scale_conflicts(place: Place, key: str) -> Iterator[Finding]:
    """A range of shares of an image that is none."""
    lowest, highest = scale = tuple(place.settings[key])
    if not 0 < lowest <= highest <= 1:
        yield Finding(f'{place.path}.{key}={scale}: give shares of the image with 0 < lowest <= highest <= 1')


def stored_size_conflicts(place: Place) -> Iterator[Finding]:
    """Global views of another size than the backbone's positions are made for."""
    stored, size = place.at(BACKBONE).settings.get('img_size'), place.settings['global_size']
    if isinstance(stored, int) and stored != size:
        text = (
            f'{BACKBONE}.img_size={stored}, but global views have {size} pixels: positions are resized in every step; '
            'set both alike unless this is meant'
        )
        yield Finding(text, fatal=False)


def evaluated_backend_conflicts(place: Place) -> Iterator[Finding]:
    """Images that are left to the device outside of training."""
    if place.phase != 'train' and place.settings.get('backend') == 'device':
        yield Finding(f"{place.path}: a transform with backend='device' is for training; evaluation takes ResizeCenterCrop")


def device_conflicts(place: Place) -> Iterator[Finding]:
    """Crops that are left to the device, against what cuts and decodes them there."""
    if place.phase != 'train' or place.settings['backend'] != 'device':
        return
    preprocessor = _preprocessor(place)
    if preprocessor is not None and not getattr(preprocessor.component, 'cuts_crops', False):
        yield Finding(
            f"{place.path}.backend='device' sends whole images, and {preprocessor.path}={preprocessor.settings.get('type')} "
            'does not cut crops: take a ViewPreprocessor (for methods of mmpretrain MMPretrainPreprocessor), or '
            "backend='fast'"
        )
    if place.settings['decode'] == 'device' and find_spec('torchcodec') is None:
        yield Finding(
            f"{place.path}.decode='device' needs TorchCodec: pip install 'torchcodec>=0.16', or remove the key (workers "
            'decode)'
        )
    if not torch.cuda.is_available():
        text = f"{place.path}.backend='device' without a GPU: cutting crops takes several times as long as with 'fast'"
        yield Finding(text, fatal=False)


def _preprocessor(place: Place) -> Place | None:
    """The preprocessor that the config names, which mmengine also takes from the top; None for that of the method."""
    given = (place.at(path) for path in ('model.data_preprocessor', 'data_preprocessor'))
    return next((found for found in given if found.settings), None)


def path_conflicts(place: Place) -> Iterator[Finding]:
    """Folders and lists of a data set that do not exist, but for what another set of the run draws."""
    if not place.in_training:
        return
    drawn = {
        other.settings.get('data_root')
        for other in place.config.all.values()
        if getattr(other.component, 'draws_images', False)
    }
    for key, exists, kind in (('data_root', Path.is_dir, 'folder'), ('ann_file', Path.is_file, 'list of images')):
        if place.settings.get(key) not in drawn and not is_url(
            place.settings.get(key)
        ):  # a store is asked when it is listed
            yield from missing(f'{place.path}.{key}', place.settings.get(key), exists, kind)


def missing(key: str, value: Any, exists: Callable[[Path], bool], kind: str) -> Iterator[Finding]:
    """A path that does not exist, or is something else."""
    if isinstance(value, (str, Path)) and str(value) and not exists(Path(value)):
        state = f'is no {kind}' if Path(value).exists() else 'does not exist'
        yield Finding(f'{key}: {kind} {value} {state} (looked from {Path.cwd()}); put it there or change the key')


def crop_counts(settings: Mapping[str, Any], num_global: int) -> dict[str, int]:
    """Crops of an image by kind, from the settings of a ``MultiCrop``."""
    return {'global': num_global, 'local': settings['num_local'], 'query': settings['num_query']}
