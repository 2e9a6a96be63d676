"""Compares an exported backbone, loaded by its own library, with the original."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmadclr.hub.export.formats import Features, Format
from mmadclr.hub.opening import OpenedBackbone

TOLERANCE = 1e-5  # relative to the largest feature value, if that exceeds 1
BATCHES = (1, 3)


@dataclass(frozen=True)
class Comparison:
    """Maximum difference of cls and patches for images (height, width), and the tolerance."""

    size: tuple[int, int]
    difference: float
    allowed: float

    @property
    def equal(self) -> bool:
        return self.difference <= self.allowed


def verify(form: Format, opened: OpenedBackbone, features: Features) -> list[Comparison]:
    """Compares features of random images in batches of 1 and 3, at the stored size first and then at others.

    Raises:
        ValueError: They differ at a size that the format guarantees.
    """
    comparisons = [compare(opened, features, size) for size in [opened.img_size, *other_sizes(form, opened)]]
    promised = comparisons if form.keeps_rule(opened) else comparisons[:1]
    for comparison in promised:
        if not comparison.equal:
            height, width = comparison.size
            raise ValueError(
                f'the exported backbone differs from the original: for images of {height}x{width}, features computed '
                f'with {form.loaders} differ by {comparison.difference:.3g} (tolerance: {comparison.allowed:.3g}). Nothing '
                f'was written; {_guess(form, opened)}'
            )
    return comparisons


def _guess(form: Format, opened: OpenedBackbone) -> str:
    eps, theirs = opened.model.blocks[0].norm1.eps, form.norm_eps(opened)
    if theirs not in (None, eps):
        return (
            f'norms of this backbone have eps={eps:g}, those of {form.loaders} eps={theirs:g}; use one of the formats hf, '
            'onnx and torchscript'
        )
    return f'the installed version of {form.loaders} may compute something else'


def compare(opened: OpenedBackbone, features: Features, size: tuple[int, int]) -> Comparison:
    """Both backbones on the same Gaussian noise.

    Raises:
        ValueError: The outputs differ in number or shape.
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
            difference = max(difference, gap if gap == gap else float('inf'))  # NaN counts as infinite
            largest = max(largest, one.abs().max().item())
    return Comparison(size, difference, TOLERANCE * largest)


def other_sizes(form: Format, opened: OpenedBackbone) -> list[tuple[int, int]]:
    """A larger non-square size, a smaller one, and one with odd sides if the format supports it."""
    if not form.takes_other_sizes(opened):
        return []
    (height, width), patch = opened.img_size, opened.model.patch_size
    half = tuple(max(side // 2 // patch, 1) * patch for side in (height, width))
    sizes = [(height + patch, width + 3 * patch), half]
    return [*sizes, (height + 1, width - 1)] if form.any_side and patch > 1 else sizes


def features_of_opened(opened: OpenedBackbone) -> Features:
    """The backbone as an exported one."""
    return lambda images: tuple(_tokens(opened, images))


def _tokens(opened: OpenedBackbone, images: Tensor) -> list[Tensor]:
    output = opened.model(images)
    return [tokens for tokens in (output.cls, output.patches) if tokens is not None]
