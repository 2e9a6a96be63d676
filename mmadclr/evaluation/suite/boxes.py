"""Single-object discovery on a box benchmark: one pass over the images for all methods; images are shared out.

Shape legend: P patches of an image (h x w), H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmadclr.datasets.benchmarks.types import BoxBenchmark, BoxedImage
from mmadclr.evaluation.dense.bootstrap import mean_score
from mmadclr.evaluation.dense.discovery import Box, attention_box, corloc, lost_box, scale_box, tokencut_box
from mmadclr.evaluation.suite.encoder import DenseEncoder
from mmadclr.evaluation.suite.forms import normalized, read_image
from mmadclr.evaluation.suite.outcomes import Outcome
from mmadclr.evaluation.suite.passes import shared_out
from mmadclr.evaluation.suite.settings import DinoSeg, Lost, TokenCut, metric_base

Method = Lost | TokenCut | DinoSeg


class Found(NamedTuple):
    """Annotation of an image and the box of every method."""

    item: BoxedImage
    boxes: dict[str, Box]


def discovery(
    benchmark: BoxBenchmark, encoder: DenseEncoder, methods: Mapping[str, Method], workers: int = 0
) -> dict[str, Outcome]:
    """CorLoc of methods by name; see ``dense.discovery``. Methods with the same normalization share the features.

    Raises:
        ValueError: An image cannot be read or a method fails on it; names it.
    """

    def read(index: int) -> tuple[BoxedImage, np.ndarray]:
        item = benchmark.images[index]
        return item, np.array(read_image(item.image))

    def work(read_item: tuple[BoxedImage, np.ndarray]) -> Found:
        item, pixels = read_item
        try:
            return Found(item, boxes_of(pixels, encoder, methods))
        except ValueError as error:
            raise ValueError(f'image {item.image}: {error}') from error

    found = shared_out(len(benchmark.images), read, work, f'{benchmark.name} discovery', workers)
    return {name: _outcome(name, settings, found) for name, settings in methods.items()}


def boxes_of(pixels: np.ndarray, encoder: DenseEncoder, methods: Mapping[str, Method]) -> dict[str, Box]:
    """Box of every method, in pixels, for an image (H, W, 3)."""
    size, patch = pixels.shape[:2], encoder.patch_size
    grid = (-(-size[0] // patch), -(-size[1] // patch))
    found: dict[str, Box] = {}
    for mean, std in {(settings.mean, settings.std) for settings in methods.values()}:
        same = {name: settings for name, settings in methods.items() if (settings.mean, settings.std) == (mean, std)}
        kinds = sorted({'attention' if isinstance(settings, DinoSeg) else 'keys' for settings in same.values()})
        features = {kind: rows[0] for kind, rows in encoder(normalized(pixels, mean, std)[None], kinds).items()}
        found |= {name: scale_box(_box(settings, features, grid), patch, size) for name, settings in same.items()}
    return found


def _box(settings: Method, features: Mapping[str, Tensor], grid: tuple[int, int]) -> Box:
    if isinstance(settings, Lost):
        return lost_box(features['keys'], grid, settings.k).box
    if isinstance(settings, TokenCut):
        return tokencut_box(features['keys'], grid, settings.tau).box
    return attention_box(features['attention'], grid, settings.head, settings.mass, settings.choose_among)


def scored_boxes(item: BoxedImage, keep_hard: bool) -> Tensor:
    """(n, 4) annotated boxes that count."""
    return item.boxes if keep_hard else item.boxes[~(item.difficult | item.truncated)]


def _outcome(name: str, settings: Method, found: Sequence[Found]) -> Outcome:
    result = corloc([each.boxes[name] for each in found], [scored_boxes(x.item, settings.keep_hard) for x in found])
    hits = torch.tensor([float('nan') if hit is None else float(hit) for hit in result.hits])
    notes = (f'{result.left_out} of {len(found)} images without a box are not scored',) if result.left_out else ()
    base = metric_base(name, settings)
    return Outcome({base: 100 * result.value}, {base: mean_score(hits)}, len(found), notes)
