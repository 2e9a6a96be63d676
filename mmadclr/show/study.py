"""Backbones and pictures that are looked at together, and their features, each computed once.

Shape legend: h x w patches of a picture, D channels of a backbone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from mmadclr.checkpoint.architecture import IMAGENET_MEAN, IMAGENET_STD
from mmadclr.hub.opening import OpenedBackbone, open_backbone
from mmadclr.models.backbones.query_vit import QueryViT
from mmadclr.show.pictures import ImageLike, normalized, pictures_of

SIZE = 448
WEIGHTS = ('.pth', '.pt', '.ckpt', '.bin', '.safetensors', '.pkl', '.py')
# A checkpoint, an opened backbone, what ``load_backbone`` returns, or its model alone (ImageNet's mean and std).
Model = str | os.PathLike | OpenedBackbone | tuple[QueryViT, Callable] | QueryViT
Models = Model | Sequence[Model] | Mapping[str, Model]


class Subject(NamedTuple):
    """A backbone with its name in figures and its normalization."""

    name: str
    model: QueryViT
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def has_cls(self) -> bool:
        return self.model.cls_token is not None

    def pixels(self, image: Image.Image) -> Tensor:
        """RGB image -> (1, 3, H, W), normalized, on the device of the backbone."""
        return normalized(image, self.mean, self.std).to(self.model.patch_embed.proj.weight.device)


class Tokens(NamedTuple):
    """Final-normed features on the CPU: ``cls`` (D,), None without class token, and ``patches`` (h, w, D)."""

    cls: Tensor | None
    patches: Tensor

    @property
    def whole(self) -> Tensor:
        """(D,) of the whole picture: [CLS], or without one the mean of the patches."""
        return self.patches.flatten(0, 1).mean(dim=0) if self.cls is None else self.cls


class Study:
    """Backbones, pictures and their features.

    Args:
        models: One, a list, or a dict by name.
        images: Files, folders or images in memory.
        size: Pixels of the longer side of each picture; sides become multiples of a backbone's patch size.

    Raises:
        FileNotFoundError, ValueError: See ``pictures_of`` and ``open_backbone``; also two backbones with one name.
    """

    def __init__(self, models: Models, images: ImageLike | Sequence[ImageLike], size: int = SIZE) -> None:
        self.subjects = subjects_of(models)
        self.pictures = pictures_of(images, size)
        self._tokens: dict[tuple[int, int], Tokens] = {}
        self._images: dict[tuple[int, int], Image.Image] = {}

    def image(self, subject: int, picture: int) -> Image.Image:
        """A picture as a backbone sees it."""
        key = self.subjects[subject].model.patch_size, picture
        if key not in self._images:
            self._images[key] = self.pictures[picture].resized(key[0])
        return self._images[key]

    def pixels(self, subject: int, picture: int) -> Tensor:
        """(1, 3, H, W), normalized."""
        return self.subjects[subject].pixels(self.image(subject, picture))

    def tokens(self, subject: int, picture: int) -> Tokens:
        """Features of a picture.

        Raises:
            ValueError: They are not finite.
        """
        key = subject, picture
        if key not in self._tokens:
            tokens = encode(self.subjects[subject], self.image(subject, picture))
            if not tokens.patches.isfinite().all():
                name = self.pictures[picture].name
                raise ValueError(f'{self.subjects[subject].name}: features of {name} are not finite')
            self._tokens[key] = tokens
        return self._tokens[key]

    def grids(self, subject: int) -> list[Tensor]:
        """(h, w, D) of every picture."""
        return [self.tokens(subject, picture).patches for picture in range(len(self.pictures))]

    def wholes(self, subject: int) -> Tensor:
        """(N, D), a feature of each picture."""
        return torch.stack([self.tokens(subject, picture).whole for picture in range(len(self.pictures))])

    def check_pairs(self, what: str) -> None:
        """Raises ValueError if there is only one picture."""
        if len(self.pictures) < 2:
            raise ValueError(f'{what}: needs at least two images, and there is only {self.pictures[0].name}')


@torch.no_grad()
def encode(subject: Subject, image: Image.Image) -> Tokens:
    """Features of an image whose sides are multiples of the patch size."""
    pixels, patch = subject.pixels(image), subject.model.patch_size
    output = subject.model(pixels)
    grid = (pixels.shape[-2] // patch, pixels.shape[-1] // patch)
    cls = None if output.cls is None else output.cls[0].float().cpu()
    return Tokens(cls, output.patches[0].float().cpu().unflatten(0, grid))


def subjects_of(models: Models) -> list[Subject]:
    """Backbones by name.

    Raises:
        FileNotFoundError, ValueError: See ``open_backbone``; no backbone, or two with one name.
    """
    named = dict(models) if isinstance(models, Mapping) else _named(models)
    if not named:
        raise ValueError('no backbone to look at')
    return [subject_of(name, model) for name, model in named.items()]


def _named(models: Any) -> dict[str, Model]:
    alone = isinstance(models, (str, os.PathLike, QueryViT, OpenedBackbone)) or _is_loaded(models)
    given = [models] if alone else list(models)
    return dict(zip(model_names(given), given, strict=True))


def _is_loaded(model: Any) -> bool:
    """Whether it is what ``load_backbone`` returns."""
    return isinstance(model, tuple) and len(model) == 2 and isinstance(model[0], QueryViT) and not _is_model(model[1])


def _is_model(model: Any) -> bool:
    return isinstance(model, (str, os.PathLike, tuple, QueryViT))


def model_names(models: Sequence[Any]) -> list[str]:
    """Names of checkpoints: the file, with as many folders as it takes to tell them apart; others are numbered."""
    files = [model if isinstance(model, (str, os.PathLike)) else f'model {i}' for i, model in enumerate(models, start=1)]
    parts = [_stem(Path(file)).parts for file in files]
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ['/'.join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f'{part[-1]} ({number})' for number, part in enumerate(parts, start=1)]


def _stem(path: Path) -> Path:
    return path.with_suffix('') if path.suffix in WEIGHTS else path


def subject_of(name: str, model: Model) -> Subject:
    """A backbone and its normalization.

    Raises:
        FileNotFoundError, ValueError: See ``open_backbone``; also another kind of model.
    """
    if isinstance(model, (str, os.PathLike)):
        model = open_backbone(os.fspath(model))
    if isinstance(model, OpenedBackbone):
        return Subject(name, model.model, model.mean, model.std)
    if isinstance(model, QueryViT):
        return Subject(name, model.eval(), IMAGENET_MEAN, IMAGENET_STD)
    if not _is_loaded(model):
        raise ValueError(f'{name}: {type(model).__name__} is not a checkpoint, nor what load_backbone returns')
    backbone, transform = model
    last = [step for step in getattr(transform, 'transforms', ()) if isinstance(step, v2.Normalize)]
    if not last:
        raise ValueError(f'{name}: its transform has no Normalize: give the model alone, or the checkpoint')
    return Subject(name, backbone, tuple(last[-1].mean), tuple(last[-1].std))
