"""Pictures as parts of a page, not larger than a page needs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

LARGEST = 24  # pictures in a report
BYTES = 600_000  # of a picture that is embedded unchanged
SIDE = 1600  # pixels, of larger ones
TITLES = {'crops': 'Crops of a batch, with their boxes', 'attention': 'Attention of the teacher in its last block'}


def title_of(path: Path) -> str:
    plain = path.stem.replace('_', ' ').replace('-', ' ')
    return f'Predictions: {plain}' if path.parent.name == 'vis_image' else TITLES.get(path.stem, plain)


def embed(paths: Sequence[Path]) -> tuple[list[tuple[str, str]], list[str]]:
    """Titles and data URLs of pictures, and which were left out and why."""
    found, problems = [], []
    for path in paths[:LARGEST]:
        try:
            found.append((title_of(path), data_url(path)))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            problems.append(f'{path} cannot be read as a picture ({error}): remove it, or draw it again')
    if len(paths) > LARGEST:
        problems.append(f'{len(paths) - LARGEST} of {len(paths)} pictures were left out, to keep the file small')
    return found, problems


def data_url(path: Path) -> str:
    """A picture as a data URL: unchanged if it is small, otherwise scaled down."""
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        kind = 'png'
        if len(content) > BYTES:
            content, kind = as_jpeg(image), 'jpeg'
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'


def as_jpeg(image: Image.Image) -> bytes:
    image = image.convert('RGB')
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=85)
    return buffer.getvalue()
