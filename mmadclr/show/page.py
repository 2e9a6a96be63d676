"""One page to explore similarities of patches in a browser, without a server: images and features are part of the file.

Shape legend: n patches, D channels, d stored dimensions.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmadclr.files import atomic_path
from mmadclr.show.study import Study

TEMPLATE = Path(__file__).with_name('page.html')
PLACE = '{{DATA}}'
MAX_DIMENSIONS = 64
CODES = 127  # the largest code
SAMPLED = 256  # patches whose cosines are compared
JPEG_QUALITY = 85


class Packed(NamedTuple):
    """Rows ``codes`` * ``scales``: (n, d) int8 and (n,) float32."""

    codes: Tensor
    scales: Tensor

    def rows(self) -> Tensor:
        """(n, d) float32."""
        return self.codes.float() * self.scales[:, None]


class Loss(NamedTuple):
    """Absolute differences between cosines of packed and of full features."""

    mean: float
    largest: float


def reduced(directions: Tensor, limit: int = MAX_DIMENSIONS) -> Tensor:
    """(n, D) -> (n, d), d <= ``limit``: the projection that keeps dot products best (principal axes, not centered)."""
    if directions.shape[1] <= limit:
        return directions
    rows = directions.double()
    axes = torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -limit:]
    return (rows @ axes.flip(1)).float()


def quantized(rows: Tensor) -> Packed:
    """Rows (n, d) as 8-bit integers, each with a scale of its own; the error of an entry is at most half its scale."""
    scales = rows.abs().amax(dim=1).clamp(min=1e-30) / CODES
    return Packed((rows / scales[:, None]).round().to(torch.int8), scales)


def loss_of(packed: Packed, directions: Tensor) -> Loss:
    """Compares cosines of ``SAMPLED`` evenly spread patches with all patches, (n, D)."""
    some = torch.linspace(0, len(directions) - 1, min(SAMPLED, len(directions))).long()
    rows = packed.rows()
    gaps = (rows[some] @ rows.T - directions[some] @ directions.T).abs()
    return Loss(float(gaps.mean()), float(gaps.max()))


def write_page(study: Study, path: str | Path) -> str:
    """Writes the page; returns in words how large it is, and how exact.

    Raises:
        UnwritableError: See ``atomic_path``.
        ValueError: See ``Study.tokens``.
    """
    packed = [pack(study, subject) for subject in range(len(study.subjects))]
    images = [stored_image(picture.resized(), picture.name) for picture in study.pictures]
    # In a script element, only "<" could end it.
    text = json.dumps(dict(images=images, models=packed), separators=(',', ':')).replace('<', '\\u003c')
    page = TEMPLATE.read_text(encoding='utf-8').replace(PLACE, text)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding='utf-8')
    return f'{len(page.encode()) / 1e6:.1f} MB; ' + '; '.join(f'{model["name"]}: {model["about"]}' for model in packed)


def pack(study: Study, subject: int) -> dict:
    """Features of all pictures for the page, with one projection for all of them."""
    grids = study.grids(subject)
    directions = F.normalize(torch.cat([grid.flatten(0, 1) for grid in grids]), dim=1)
    packed = quantized(reduced(directions))
    loss = loss_of(packed, directions)
    dims, channels = packed.codes.shape[1], directions.shape[1]
    parts = zip(*(part.split([grid.shape[0] * grid.shape[1] for grid in grids]) for part in packed), strict=True)
    images = [stored_features(Packed(*part), grid) for part, grid in zip(parts, grids, strict=True)]
    about = f'{dims} of {channels} dimensions, 8 bits; cosines off by {loss.mean:.4f} on average, {loss.largest:.4f} at most'
    return dict(name=study.subjects[subject].name, dims=dims, about=about, images=images)


def stored_features(packed: Packed, grid: Tensor) -> dict:
    """Features of one picture, little-endian."""
    codes, scales = packed.codes.numpy().tobytes(), packed.scales.numpy().astype('<f4').tobytes()
    return dict(rows=grid.shape[0], columns=grid.shape[1], codes=encoded(codes), scales=encoded(scales))


def stored_image(image: Image.Image, name: str) -> dict:
    """A picture as JPEG."""
    file = io.BytesIO()
    image.save(file, 'JPEG', quality=JPEG_QUALITY)
    source = f'data:image/jpeg;base64,{encoded(file.getvalue())}'
    return dict(name=name, width=image.width, height=image.height, source=source)


def encoded(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode()
