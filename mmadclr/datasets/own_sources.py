"""Custom sources of images: building them from a config, checking them, and reading from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mmadclr.config.components import Place, check_arguments
from mmadclr.config.findings import Finding, refusals
from mmadclr.datasets.decoding import said
from mmadclr.datasets.remote import expanded
from mmadclr.datasets.sources import Source
from mmadclr.registry import IMAGE_SOURCES
from mmadclr.urls import is_url, shown

# Programming errors, and errors that another image would not avoid; other exceptions concern a single image.
BUGS = (AssertionError, AttributeError, ImportError, MemoryError, NameError, NotImplementedError, TypeError)
MEMBERS = ('__len__', 'read', 'name', 'key', 'labels', 'classes', 'shard_of')


def build_source(source: Mapping | Source, with_label: bool) -> Source:
    """Builds a source from its config, or takes a built one, and checks it.

    Args:
        source: ``type`` is a class in ``IMAGE_SOURCES``, the other keys are its arguments. In arguments that are URLs,
            environment variables are expanded.
        with_label: Whether labels are required.

    Raises:
        ValueError: The class is unknown, does not accept the arguments or fails, or see ``check_source``.
    """
    where = described(source)
    if not isinstance(source, Mapping):
        built = source
    else:
        check_has_type(source)
        settings = {name: expanded(value) if is_url(value) else value for name, value in source.items()}
        built = _called(where, _class_of(settings.pop('type')), settings)
    check_source(built, where, with_label)
    return built


def described(source: Mapping | Source) -> str:
    """A source in messages: its class and arguments, without secrets of URLs."""
    if not isinstance(source, Mapping):
        return type(source).__name__
    kind = source.get('type')
    values = {name: shown(value) if isinstance(value, str) else value for name, value in source.items() if name != 'type'}
    arguments = ', '.join(f'{name}={value!r}' for name, value in values.items())
    return f'{kind if isinstance(kind, str) else getattr(kind, "__name__", kind)}({arguments})'


def check_has_type(source: Mapping) -> None:
    """Raises ValueError if the config of a source has no type."""
    if 'type' not in source:
        raise ValueError(f'source={dict(source)} has no type: set it to the class that reads the images')


def _class_of(kind: str | type) -> Any:
    found = IMAGE_SOURCES.get(kind) if isinstance(kind, str) else kind
    if found is None:
        raise ValueError(
            f'source.type={kind!r}: no such class in IMAGE_SOURCES; register it with '
            '@IMAGE_SOURCES.register_module() and add its module to custom_imports'
        )
    return found


def _called(where: str, component: Any, settings: Mapping[str, Any]) -> Source:
    check_arguments(component, settings, f'source {where}')
    try:
        return component(**settings)
    except BUGS:
        raise
    except Exception as error:  # any, from the library behind the source
        raise ValueError(f'source {where}: {said(error)}') from error


def check_source(source: Any, where: str, with_label: bool) -> None:
    """Checks that a source implements the interface that ``ImageDataset`` uses.

    Args:
        source: Any object.
        where: Its description in messages.
        with_label: Whether labels are required.

    Raises:
        ValueError: A member is missing, there are no images, a name is not a str, or labels do not match images or classes.
    """
    missing = [name for name in MEMBERS if not hasattr(source, name)]
    if missing:
        raise ValueError(f'source {where} has no {", ".join(missing)}: derive the class from mmadclr.datasets.Source')
    if len(source) == 0:
        raise ValueError(f'source {where} has no images')
    name = source.name(0)
    if not isinstance(name, str):
        raise ValueError(f'source {where}: name(0) must be a str, not {name!r}')
    if source.labels is not None:
        _check_labels(source, where)
    elif with_label:
        raise ValueError(f'source {where} has no labels: set them, or with_label=False')


def _check_labels(source: Source, where: str) -> None:
    labels, count = source.labels, len(source)
    if not isinstance(labels, np.ndarray) or labels.shape != (count,) or labels.dtype != np.int64:
        found = f'{labels.dtype} {labels.shape}' if isinstance(labels, np.ndarray) else type(labels).__name__
        raise ValueError(f'source {where}: labels must be a NumPy array, int64 ({count},), one per image, not {found}')
    lowest, highest, classes = int(labels.min()), int(labels.max()), len(source.classes)
    if lowest < 0 or highest >= classes:
        raise ValueError(
            f'source {where}: labels range from {lowest} to {highest}, but must be indices into the {classes} classes'
        )


def read_from(source: Source, index: int) -> bytes | np.ndarray:
    """Reads an image as encoded bytes or as an array.

    Raises:
        OSError: It cannot be read; replaces any other exception of the source, except ``BUGS``.
        TypeError: The source returned something else.
    """
    try:
        data: Any = source.read(index)
    except (OSError, *BUGS):
        raise
    except Exception as error:  # any, from the library behind the source
        raise OSError(said(error)) from error
    if data is None:
        raise OSError('read returned None')
    if isinstance(data, (bytes, np.ndarray)):
        return data
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    raise TypeError(
        f'{type(source).__name__}.read({index}) returned {type(data).__name__} for {source.name(index)}: it must return the '
        'bytes of an image file, or an array (H, W) or (H, W, C)'
    )


def check_one_place(data_root: Any, ann_file: Any, shards: Any, source: Any) -> None:
    """Raises ValueError unless images come either from a folder or from a source."""
    given = {'data_root': data_root, 'ann_file': ann_file, 'shards': shards}
    others = [f'{name}={shown(value) if isinstance(value, str) else value!r}' for name, value in given.items() if value]
    if source is not None and others:
        names = ', '.join(f'{name}=None' for name, value in given.items() if value)
        raise ValueError(f'{", ".join(others)} and source={described(source)}: set only one of them, here {names}')
    if source is None and data_root is None:
        raise ValueError('data_root is missing: set it to the folder of the images, or set source')


def source_conflicts(place: Place) -> Iterator[Finding]:
    """A data set with both a folder and a source, or with a source without type."""
    data_root, ann_file, shards, source = map(place.settings.get, ('data_root', 'ann_file', 'shards', 'source'))
    if source is None or not place.in_training:
        return
    yield from refusals(f'{place.path}: ', check_one_place, data_root, ann_file, shards, source)
    if isinstance(source, Mapping):
        yield from refusals(f'{place.path}: ', check_has_type, source)
