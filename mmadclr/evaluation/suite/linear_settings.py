"""Settings of the linear segmentation protocols, with published values as defaults; see ``settings``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Linear:
    """``recipe``: NeCo's. ``drop_last``: drop the last incomplete batch of training and validation, as published, or use
    all images. ``shuffle``: not in the published code. See ``dense.linear_segmentation``.
    """

    size: int = 448
    epochs: int = 25
    batch: int = 128
    lr: float = 0.01
    step_epochs: int = 20
    drop_last: bool = False
    shuffle: bool = False
    augment: bool = True
    seed: int = 400
    mean: Numbers = MEAN
    std: Numbers = STD


@dataclass(frozen=True)
class LinearDinov2:
    """Heads trained on crops of ``size`` and tested on images whose short side is ``size``.

    ``batch``: images of a step. ``blocks``: whose outputs are concatenated, from 0, or from the last if negative, with the
    backbone's ``final_norm`` applied. ``batch_norm``, ``dropout``: of the head. ``over_all_pixels``: the loss is a mean over
    all pixels, ignored ones included. ``augment``: scales, crops, flips and colors. ``most_of_class``: share of one class
    from which a crop is drawn again. ``test``: mean of windows, ``stride`` pixels apart, 0 for two thirds of ``size``; or
    the whole image at once. ``validate``: iterations between validations, of which the best is also reported, 0 for only
    one at the end. See ``dense.linear_segmentation``.
    """

    size: int = 512
    iterations: int = 40_000
    batch: int = 16
    lr: float = 1e-3
    decay: float = 1e-4
    schedule: Literal['poly', 'cosine'] = 'poly'
    warmup: int = 1500
    lag: int = 0
    blocks: tuple[int, ...] = (-1,)
    final_norm: bool = True
    batch_norm: bool = True
    dropout: float = 0.0
    over_all_pixels: bool = True
    augment: bool = True
    most_of_class: float = 0.75
    test: Literal['slide', 'whole'] = 'slide'
    stride: int = 0
    validate: int = 0
    seed: int = 0
    mean: Numbers = MEAN
    std: Numbers = STD


@dataclass(frozen=True)
class LinearDinov3(LinearDinov2):
    """``lag``: iterations by which the learning rate is late."""

    decay: float = 1e-3
    schedule: Literal['poly', 'cosine'] = 'cosine'
    lag: int = 1
    dropout: float = 0.1
    over_all_pixels: bool = False
    validate: int = 5000


@dataclass(frozen=True)
class LinearIbot(LinearDinov2):
    """``lr``: of ViT-S; 8e-4 for ViT-B. ``blocks``: of 12."""

    iterations: int = 160_000
    lr: float = 3e-5
    decay: float = 0.05
    blocks: tuple[int, ...] = (3, 5, 7, 11)
    batch_norm: bool = False
