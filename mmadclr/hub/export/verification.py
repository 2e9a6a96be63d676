"""Comparing an exported backbone, as its own library opens it, with the one it was made from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmadclr.hub.export.formats import Features, Format
from mmadclr.hub.opening import OpenedBackbone

TOLERANCE = 1e-5  # of the largest number among the features, where that exceeds 1
BATCHES = (1, 3)


@dataclass(frozen=True)
class Comparison:
    """Largest difference of cls and patches for images (height, width), and the largest that counts as equal."""

    size: tuple[int, int]
    difference: float
    allowed: float

    @property
    def equal(self) -> bool:
        return self.difference <= self.allowed


def verify(form: Format, opened: OpenedBackbone, features: Features) -> list[Comparison]:
    """Features of random images in batches of 1 and 3, at the stored size first and then at others.

    Raises:
        ValueError: They differ where the format promises that they do not.
    """
    comparisons = [compare(opened, features, size) for size in [opened.img_size, *other_sizes(form, opened)]]
    promised = comparisons if form.keeps_rule(opened) else comparisons[:1]
    for comparison in promised:
        if not comparison.equal:
            height, width = comparison.size
            raise ValueError(
                f'the exported backbone is not the one it was made from: for images of {height}x{width}, features opened '
                f'with {form.loaders} differ by {comparison.difference:.3g} (allowed: {comparison.allowed:.3g}). Nothing '
                f'was written; {_guess(form, opened)}'
            )
    return comparisons


def _guess(form: Format, opened: OpenedBackbone) -> str:
    eps = opened.model.blocks[0].norm1.eps
    if form.norm_eps not in (None, eps):
        return (
            f'norms of this backbone add {eps:g} to the variance, those of {form.loaders} {form.norm_eps:g}; the formats '
            'hf, onnx and torchscript can hold it'
        )
    return f'another version of {form.loaders} may compute something else'


def compare(opened: OpenedBackbone, features: Features, size: tuple[int, int]) -> Comparison:
    """Both backbones on the same normal noise.

    Raises:
        ValueError: The outputs are not of the same number and shapes.
    """
    generator = torch.Generator().manual_seed(0)
    difference, largest = 0.0, 1.0
    for batch in BATCHES:
        images = torch.randn(batch, 3, *size, generator=generator)
        with torch.inference_mode():
            wanted, found = _tokens(opened, images), features(images)
        if [tuple(tensor.shape) for tensor in wanted] != [tuple(tensor.shape) for tensor in found]:
            shapes = ', '.join(str(tuple(tensor.shape)) for tensor in found)
            raise ValueError(f'the exported backbone returns {shapes} for {batch} images of {size[0]}x{size[1]}')
        for one, other in zip(wanted, found, strict=True):
            gap = (one - other).abs().max().item()
            difference = max(difference, gap if gap == gap else float('inf'))  # NaN compares with nothing
            largest = max(largest, one.abs().max().item())
    return Comparison(size, difference, TOLERANCE * largest)


def other_sizes(form: Format, opened: OpenedBackbone) -> list[tuple[int, int]]:
    """A larger, not square one, a smaller one, and one of odd sides for formats that take it."""
    if not form.takes_other_sizes(opened):
        return []
    (height, width), patch = opened.img_size, opened.model.patch_size
    half = tuple(max(side // 2 // patch, 1) * patch for side in (height, width))
    sizes = [(height + patch, width + 3 * patch), half]
    return [*sizes, (height + 1, width - 1)] if form.any_side and patch > 1 else sizes


def _tokens(opened: OpenedBackbone, images: Tensor) -> list[Tensor]:
    output = opened.model(images)
    return [tokens for tokens in (output.cls, output.patches) if tokens is not None]
