"""What a backbone makes of a few fixed images at one moment of a run, small enough to keep many, and as comparable colors.

Shape legend: h x w patches of an image, n patches of all images, D channels.
"""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmadclr.datasets.any_image import rgb_of_array
from mmadclr.datasets.decoding import DecodeError, read_by_pillow
from mmadclr.datasets.image_dataset import ImageDataset
from mmadclr.datasets.own_sources import read_from
from mmadclr.datasets.pixels import PixelOptions
from mmadclr.datasets.sources import Source
from mmadclr.files import atomic_path
from mmadclr.names import printable
from mmadclr.show.components import RANGE, principal_components, quantiles
from mmadclr.show.last_block import cls_attention
from mmadclr.show.pictures import Picture, spread
from mmadclr.show.study import Subject, encode

COUNT = 4  # images
MOST_PATCHES = 28  # along the longer side of an image
COMPONENTS = 3
ATTEMPTS = 10  # images tried in place of one that cannot be read


class Example(NamedTuple):
    """An image with its name."""

    name: str
    image: Image.Image


class Snapshot(NamedTuple):
    """Features of some images after ``iteration`` iterations.

    Attributes:
        iteration, epoch: Moment of the run; ``epoch`` may be a fraction, and is None if the run has none.
        names: Of the images.
        scores: (h, w, 3) of each image: the first principal components of the patches of all images, each with a standard
            deviation of 1; zero if the patches do not vary.
        attention: (h, w) of each image: attention of [CLS] in the last block, mean over heads; empty without class token.
    """

    iteration: int
    epoch: float | None
    names: tuple[str, ...]
    scores: list[Tensor]
    attention: list[Tensor]

    @property
    def shown(self) -> tuple:
        """What two snapshots must have in common to be compared: names and grids of the images."""
        return self.names, tuple(tuple(part.shape) for part in self.scores)


# --- images ----------------------------------------------------------------------------------------------------------------


def examples(dataset: ImageDataset, count: int = COUNT) -> list[Example]:
    """Images that are evenly spread over a data set, always the same; the next ones in place of unreadable ones.

    Raises:
        ValueError: ``ATTEMPTS`` consecutive images cannot be read.
    """
    source = copy.copy(dataset.source)  # what it opens on reading must not be passed on to workers
    return [_example(dataset, source, start) for start in spread(range(len(dataset)), count)]


def _example(dataset: ImageDataset, source: Source, start: int) -> Example:
    problem = ''
    for offset in range(ATTEMPTS):
        index = (start + offset) % len(dataset)
        name = printable(source.name(index))
        try:
            return Example('/'.join(Path(name).parts[-2:]), _pixels(read_from(source, index), dataset.pixels))
        except (OSError, DecodeError) as error:
            problem = problem or f'{name} ({error})'
    raise ValueError(f'{ATTEMPTS} consecutive images of {dataset.data_root} cannot be read; the first: {problem}')


def _pixels(data: bytes | np.ndarray, options: PixelOptions) -> Image.Image:
    """The whole image, as a data set interprets pixels."""
    return (rgb_of_array(data, options) if isinstance(data, np.ndarray) else read_by_pillow(data, options))[0]


# --- features --------------------------------------------------------------------------------------------------------------


def side_of(subject: Subject) -> int:
    """Pixels of the longer side: twice that of the backbone's images, but at most ``MOST_PATCHES`` patches."""
    patch = subject.model.patch_size
    return patch * max(2, min(MOST_PATCHES, 2 * max(subject.model.patch_embed.img_size) // patch))


@torch.no_grad()
def snapshot(subject: Subject, shown: Sequence[Example], iteration: int, epoch: float | None = None) -> Snapshot:
    """Features of images at this moment.

    Raises:
        ValueError: They are not finite.
    """
    side, patch = side_of(subject), subject.model.patch_size
    images = [Picture(image, name, side).resized(patch) for name, image in shown]
    with torch.compiler.set_stance('force_eager'):  # nothing is compiled for their sizes
        grids = [encode(subject, image).patches for image in images]
        maps = [attention_map(subject, image) for image in images if subject.has_cls]
    if not all(part.isfinite().all() for part in [*grids, *maps]):
        raise ValueError(f'features of {subject.name} are not finite after {iteration} iterations')
    return Snapshot(iteration, epoch, tuple(name for name, _ in shown), unit_scores(grids), maps)


def attention_map(subject: Subject, image: Image.Image) -> Tensor:
    """(h, w): attention of [CLS] in the last block, mean over heads."""
    return cls_attention(subject.model, subject.pixels(image))[0].mean(dim=0).float().cpu()


def unit_scores(grids: Sequence[Tensor]) -> list[Tensor]:
    """(h, w, 3) for the patches (h, w, D) of images; see ``Snapshot.scores``."""
    rows = torch.cat([grid.flatten(0, 1) for grid in grids])
    try:
        components = principal_components(rows, COMPONENTS)
    except ValueError:  # the patches do not vary
        return [torch.zeros(*grid.shape[:2], COMPONENTS) for grid in grids]
    scale = components.variances.clamp(min=1e-12 * float(components.variances[0])).sqrt()
    return [(components.scores(grid) / scale).float() for grid in grids]


# --- files -----------------------------------------------------------------------------------------------------------------


def write_snapshot(found: Snapshot, folder: Path) -> Path:
    """Writes ``iter_<iteration>.npz``.

    Raises:
        UnwritableError: See ``atomic_path``.
    """
    about = json.dumps(dict(iteration=found.iteration, epoch=found.epoch, names=found.names))
    arrays: dict[str, Any] = {f'scores_{i}': part.half().numpy() for i, part in enumerate(found.scores)}
    arrays |= {
        f'attention_{i}': (part / part.max().clamp(min=1e-12)).half().numpy() for i, part in enumerate(found.attention)
    }
    path = folder / f'iter_{found.iteration}.npz'
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays, about=np.array(about))
    return path


def read_snapshot(path: Path) -> Snapshot:
    """Reads a file of ``write_snapshot``.

    Raises:
        ValueError: It is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file['about']))
            names = tuple(map(str, about['names']))
            scores = [_of_file(file, f'scores_{i}', 3) for i in range(len(names))]
            has_attention = 'attention_0' in file
            attention = [_of_file(file, f'attention_{i}', 2) for i in range(len(names) if has_attention else 0)]
            epoch = None if about['epoch'] is None else float(about['epoch'])
            return Snapshot(int(about['iteration']), epoch, names, scores, attention)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f'{path} is not readable as features ({error}); remove it') from error


def _of_file(file, name: str, dimensions: int) -> Tensor:
    array = file[name]
    if array.ndim != dimensions or 0 in array.shape or not np.isfinite(array).all():
        raise ValueError(f'{name} has shape {array.shape}, or is not finite')
    return torch.from_numpy(array.astype(np.float32))


# --- colors ----------------------------------------------------------------------------------------------------------------


def colors_over_time(found: Sequence[Snapshot]) -> list[list[Tensor]]:
    """(h, w, 3) in [0, 1] for every image of every snapshot; gray where the patches do not vary.

    Each snapshot has principal components of its own: axes of one moment mean nothing for the features of another, and
    components of all moments together would tell the moments apart, not the patches. But order and sign of components are
    arbitrary, and those of similar variance mix, so that colors would jump. Therefore the three standardized components are
    turned (an orthogonal matrix, Procrustes) to fit those of the next snapshot best, patch by patch, from the last one
    back. The last is as it is.

    Args:
        found: Snapshots of the same images (``Snapshot.shown``), in their order.
    """
    rows = [torch.cat([part.flatten(0, 1) for part in each.scores]).double() for each in found]
    return [_split(_colors(turned), each.scores) for turned, each in zip(aligned(rows), found, strict=True)]


def turned_to(found: Snapshot, before: Snapshot) -> Snapshot:
    """A snapshot with its components turned to fit an earlier one of the same images, as ``colors_over_time`` does it."""
    rows = [torch.cat([part.flatten(0, 1) for part in each.scores]).double() for each in (found, before)]
    return found._replace(scores=_split(aligned(rows)[0].float(), found.scores))


def aligned(scores: Sequence[Tensor]) -> list[Tensor]:
    """Scores (n, k) of consecutive moments, each turned to fit the next best; the last stays as it is."""
    turned: list[Tensor] = []
    target: Tensor | None = None
    for each in reversed(scores):
        if target is not None:
            each = each @ rotation(each, target)
        turned.append(each)
        target = each if each.any() else target  # patches that do not vary fit anything
    return turned[::-1]


def rotation(source: Tensor, target: Tensor) -> Tensor:
    """The orthogonal matrix R (k, k) that minimizes the norm of ``source @ R - target``, both (n, k)."""
    left, _, right = torch.linalg.svd(source.T @ target)
    return left @ right


def _colors(scores: Tensor) -> Tensor:
    low, high = (quantiles(scores, share) for share in RANGE)
    spans = ((scores - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    return torch.where(high > low, spans, 0.5)


def _split(rows: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = rows.split([part.shape[0] * part.shape[1] for part in like])
    return [part.view_as(each) for part, each in zip(parts, like, strict=True)]
