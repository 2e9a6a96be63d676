"""What a crop of a picture attends to, and what it finds in other pictures.

Shape legend: h x w patches of a picture, T tokens of the crop, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmadclr.show.last_block import query_attention
from mmadclr.show.study import Study

BOX = (0.35, 0.35, 0.65, 0.65)
Fractions = tuple[float, float, float, float]


class Answer(NamedTuple):
    """``crop``: as the backbone sees it. ``attention`` (h, w): to the patches of its own picture. ``similarities``: of each
    picture (h, w), cosines with its patches. ``order``: the other pictures, by descending largest cosine.
    """

    crop: Image.Image
    attention: Tensor
    similarities: list[Tensor]
    order: list[int]


def check_box(box: Sequence[float]) -> Fractions:
    """Raises ValueError unless it is left, top, right, bottom in fractions of the sides."""
    if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise ValueError(f'box {tuple(box)} of the query must be left, top, right, bottom in fractions of the sides, 0 to 1')
    left, top, right, bottom = map(float, box)
    return left, top, right, bottom


def crop_of(image: Image.Image, box: Fractions, side: int) -> Image.Image:
    """The box of an image, resized to ``side`` x ``side`` pixels; bicubic, and blind to pixels outside."""
    width, height = image.size
    left, top = int(box[0] * width), int(box[1] * height)
    right, bottom = max(left + 1, round(box[2] * width)), max(top + 1, round(box[3] * height))
    return image.crop((left, top, right, bottom)).resize((side, side), Image.Resampling.BICUBIC)


@torch.no_grad()
def ask(study: Study, subject: int, picture: int, box: Sequence[float] = BOX, side: int | None = None) -> Answer:
    """Passes a crop of a picture as query tokens through a backbone, with that picture.

    Query tokens have no position (ADCLR, section 3.2): what they find depends on the pixels of the crop alone. Any plain
    vision transformer takes them, whether it was trained with them or not.

    Args:
        study: Backbones and pictures.
        subject, picture: Their numbers.
        box: Left, top, right, bottom in fractions of the sides.
        side: Pixels of the resized crop, a multiple of the patch size; one patch by default, as in ADCLR's configs.

    Raises:
        ValueError: No such box, or a side that is not a multiple of the patch size.
    """
    name, model = study.subjects[subject].name, study.subjects[subject].model
    side = side or model.patch_size
    if side % model.patch_size:
        raise ValueError(f'query size {side} must be a multiple of {model.patch_size}, the patch size of {name}')
    crop = crop_of(study.image(subject, picture), check_box(box), side)
    pixels, crops = study.pixels(subject, picture), study.subjects[subject].pixels(crop)[None]
    attention = query_attention(model, pixels, crops)[0, 0].cpu()
    feature = model(pixels, crops).queries[0, 0].mean(dim=0).float().cpu()
    similarities = [cosines(feature, grid) for grid in study.grids(subject)]
    others = [number for number in range(len(similarities)) if number != picture]
    return Answer(crop, attention, similarities, sorted(others, key=lambda i: -float(similarities[i].max())))


def cosines(feature: Tensor, grid: Tensor) -> Tensor:
    """(h, w) of a feature (D,) with patches (h, w, D)."""
    return F.cosine_similarity(grid, feature, dim=-1)
