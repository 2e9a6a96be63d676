"""Sources of one's own: built from a config, checked before anything is read, and read with their errors told apart."""

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

# Mistakes in a program, and what no other image helps against; anything else that reading raises is about the image.
BUGS = (AssertionError, AttributeError, ImportError, MemoryError, NameError, NotImplementedError, TypeError)
MEMBERS = ('__len__', 'read', 'name', 'key', 'labels', 'classes', 'shard_of')


def build_source(source: Mapping | Source, with_label: bool) -> Source:
    """The source of a config, or the source itself, checked.

    Args:
        source: ``type`` is a class in ``IMAGE_SOURCES``, the rest its arguments; variables of the environment are filled in
            where these are URLs.
        with_label: Labels are needed.

    Raises:
        ValueError: The class is not known, does not take the arguments or fails, or see ``check_source``.
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
    """What messages call a source: its class and arguments, without what is secret in URLs."""
    if not isinstance(source, Mapping):
        return type(source).__name__
    kind = source.get('type')
    values = {name: shown(value) if isinstance(value, str) else value for name, value in source.items() if name != 'type'}
    arguments = ', '.join(f'{name}={value!r}' for name, value in values.items())
    return f'{kind if isinstance(kind, str) else getattr(kind, "__name__", kind)}({arguments})'


def check_has_type(source: Mapping) -> None:
    """Raises a ValueError for a config that does not name its class."""
    if 'type' not in source:
        raise ValueError(f'source={dict(source)} has no type: name the class that reads the images')


def _class_of(kind: str | type) -> Any:
    found = IMAGE_SOURCES.get(kind) if isinstance(kind, str) else kind
    if found is None:
        raise ValueError(
            f'source.type={kind!r}: no such class among the sources of images; register it with '
            '@IMAGE_SOURCES.register_module() and name its module in custom_imports'
        )
    return found


def _called(where: str, component: Any, settings: Mapping[str, Any]) -> Source:
    check_arguments(component, settings, f'source {where}')
    try:
        return component(**settings)
    except BUGS:
        raise
    except Exception as error:  # of libraries that we do not know
        raise ValueError(f'source {where}: {said(error)}') from error


def check_source(source: Any, where: str, with_label: bool) -> None:
    """Whether a source has what a data set asks it for.

    Args:
        source: Any object.
        where: What messages call it.
        with_label: Labels are needed.

    Raises:
        ValueError: Something is missing, there is no image, its name is no text, or labels do not fit images or classes.
    """
    missing = [name for name in MEMBERS if not hasattr(source, name)]
    if missing:
        raise ValueError(f'source {where} has no {", ".join(missing)}: derive the class from mmadclr.datasets.Source')
    if len(source) == 0:
        raise ValueError(f'source {where} holds no image')
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
        raise ValueError(f'source {where}: labels must be a NumPy array, int64 ({count},), one for each image, not {found}')
    lowest, highest, classes = int(labels.min()), int(labels.max()), len(source.classes)
    if lowest < 0 or highest >= classes:
        raise ValueError(
            f'source {where}: labels are {lowest} to {highest}, but classes has {classes} names: labels must be places in it'
        )


def read_from(source: Source, index: int) -> bytes | np.ndarray:
    """The file or the array of an image.

    Raises:
        OSError: It cannot be read, whatever error the source has for that.
        TypeError: The source gives something else.
    """
    try:
        data = source.read(index)
    except (OSError, *BUGS):
        raise
    except Exception as error:  # of libraries that we do not know
        raise OSError(said(error)) from error
    if data is None:
        raise OSError('there is nothing to read (read returned None)')
    if isinstance(data, (bytes, np.ndarray)):
        return data
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    raise TypeError(
        f'{type(source).__name__}.read({index}) returned {type(data).__name__} for {source.name(index)}: it must return the '
        'bytes of an image file, or an array (H, W) or (H, W, C)'
    )


def check_one_place(data_root: Any, ann_file: Any, shards: Any, source: Any) -> None:
    """Raises a ValueError unless images come either from a folder or from a source."""
    given = {'data_root': data_root, 'ann_file': ann_file, 'shards': shards}
    others = [f'{name}={shown(value) if isinstance(value, str) else value!r}' for name, value in given.items() if value]
    if source is not None and others:
        names = ', '.join(f'{name}=None' for name, value in given.items() if value)
        raise ValueError(f'{", ".join(others)} and source={described(source)}: images come from one of them; set {names}')
    if source is None and data_root is None:
        raise ValueError('data_root is missing: name the folder of the images, or set source')


def source_conflicts(place: Place) -> Iterator[Finding]:
    """A data set that has a folder and a source, or a source without type."""
    data_root, ann_file, shards, source = map(place.settings.get, ('data_root', 'ann_file', 'shards', 'source'))
    if source is None or not place.in_training:
        return
    yield from refusals(f'{place.path}: ', check_one_place, data_root, ann_file, shards, source)
    if isinstance(source, Mapping):
        yield from refusals(f'{place.path}: ', check_has_type, source)
