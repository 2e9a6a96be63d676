"""How mmdet's and mmseg's pipelines read files, as far as checks need it: size, orientation, labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mmadclr.datasets.decoding import READ_ERRORS, said
from mmadclr.datasets.label_maps import LabelMapError, open_label_map
from mmadclr.datasets.orientation import displayed_size, orientation_of


class Loading(NamedTuple):
    """How a pipeline reads its files; the defaults are those of mmcv's ``LoadImageFromFile`` and mmseg's mask loader.

    ``image_flag`` None means that the pipeline does not load images by mmcv; sizes are then those displayed.
    """

    image_flag: str | None = None
    image_backend: str = 'cv2'
    mask_backend: str = 'pillow'
    with_mask: bool = False
    poly2mask: bool = True
    reduce_zero_label: bool | None = None


def loading_of(pipeline: Sequence | None) -> Loading:
    """Loading settings of the transforms in a pipeline."""
    loading = Loading()
    for transform in transforms_of(pipeline):
        name = str(transform.get('type')).rpartition('.')[2].rstrip("'>")
        if name == 'LoadImageFromFile':
            flag, backend = transform.get('color_type', 'color'), transform.get('imdecode_backend', 'cv2')
            loading = loading._replace(image_flag=flag, image_backend=backend)
        elif name == 'LoadAnnotations':
            loading = loading._replace(
                mask_backend=transform.get('imdecode_backend', 'pillow'),
                with_mask=bool(transform.get('with_mask', False)),
                poly2mask=bool(transform.get('poly2mask', True)),
                reduce_zero_label=transform.get('reduce_zero_label'),
            )
    return loading


def transforms_of(node: Any) -> Iterator[Mapping]:
    """Configs of transforms in a pipeline, including nested ones."""
    if isinstance(node, Mapping):
        if 'type' in node:
            yield node
        for child in node.values():
            yield from transforms_of(child)
    elif isinstance(node, (list, tuple)):
        for child in node:
            yield from transforms_of(child)


class Sizes(NamedTuple):
    """(width, height) of an image as stored and as loaded, and its EXIF orientation."""

    stored: tuple[int, int]
    loaded: tuple[int, int]
    orientation: int


def image_sizes(path: Path, loading: Loading) -> Sizes:
    """Sizes of an image file; decodes pixels only if a tag may rotate them.

    Raises:
        READ_ERRORS: It cannot be read.
    """
    with Image.open(path) as image:
        if image.format == 'PNG' and 'exif' not in image.info:
            image.load()  # the tag may come after the pixels
        stored, orientation = image.size, orientation_of(image)
    if orientation == 1:
        return Sizes(stored, stored, 1)
    if loading.image_flag is None:
        return Sizes(stored, displayed_size(stored, orientation), orientation)
    height, width = mmcv_pixels(path, loading.image_flag, loading.image_backend).shape[:2]
    return Sizes(stored, (width, height), orientation)


def size_problem(path: Path, width: int, height: int, loading: Loading = Loading()) -> str | None:  # noqa: B008
    """Problem of an image whose annotation has this size, if any."""
    try:
        sizes = image_sizes(path, loading)
    except READ_ERRORS as error:
        return f'{path} cannot be read ({said(error)})'
    if sizes.loaded == (width, height):
        return None
    text = f'{path} has {sizes.loaded[0]}x{sizes.loaded[1]} pixels, but its annotation has {width}x{height}'
    if sizes.orientation == 1:
        return text
    tag = f'EXIF orientation {sizes.orientation}'
    if sizes.loaded != sizes.stored:
        return (
            f'{text}: it is stored as {sizes.stored[0]}x{sizes.stored[1]} and rotated by its {tag} when loaded. Annotate it '
            'as displayed, or remove the tag from the file'
        )
    return (
        f"{text}: this pipeline does not apply its {tag}. Load with color_type='color' if it is annotated as "
        'displayed (WebP: with imdecode_backend="pillow")'
    )


def hidden_turn(path: Path) -> str | None:
    """A remark about an image rotated without changing its size, where a wrong annotation would go unnoticed."""
    try:
        with Image.open(path) as image:
            size, orientation = image.size, orientation_of(image)
    except READ_ERRORS:
        return None
    if orientation == 1 or displayed_size(size, orientation) != size:
        return None
    return (
        f'{path} has EXIF orientation {orientation}, and its size does not show whether it is annotated as displayed (how '
        'it is loaded by default) or as stored: check it'
    )


def mask_labels(path: Path, image_name: str, loading: Loading = Loading()) -> np.ndarray:  # noqa: B008
    """Labels (H, W) in a mask, before casting to 8 bits, as read by mmseg's ``LoadAnnotations``.

    Raises:
        LabelMapError: It cannot be read as a label map.
    """
    labels = np.asarray(open_label_map(path, image_name))
    if loading.mask_backend == 'pillow':
        return labels
    try:
        read = mmcv_pixels(path, 'unchanged', loading.mask_backend).squeeze()
    except READ_ERRORS as error:
        raise LabelMapError(f'mask {path} cannot be read ({said(error)})') from error
    if read.shape != labels.shape or not np.array_equal(read, labels):
        raise LabelMapError(
            f"mask {path}: imdecode_backend='{loading.mask_backend}' does not return the labels in the file (it reads "
            'palettes as colors and bits as 0 and 255); remove imdecode_backend of LoadAnnotations'
        )
    return labels


def mmcv_pixels(path: Path, flag: str, backend: str) -> np.ndarray:
    """Pixels as decoded by mmcv.

    Raises:
        ValueError: mmcv cannot decode the file.
    """
    import mmcv

    try:
        pixels = mmcv.imfrombytes(Path(path).read_bytes(), flag=flag, backend=backend)
    except READ_ERRORS:
        raise
    except Exception as error:  # raised by one of four libraries
        raise ValueError(f'mmcv: {error}') from error
    if pixels is None:
        raise ValueError(f'mmcv cannot decode it with {backend}')
    return pixels
