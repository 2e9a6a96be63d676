"""Lists the files of data sets and pairs them by name; nothing is opened except text lists."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar, overload

from mmengine.logging import print_log

from mmadclr.datasets.benchmarks.types import LabeledImage
from mmadclr.datasets.walking import EXTENSIONS
from mmadclr.names import is_hidden, printable, read_lines

MAX_NAMED = 5
FEW = 0.01  # share of images
Item = TypeVar('Item')


class Lazy(Sequence[Item], Generic[Item]):
    """Items that are read when indexed. ``keys``: one for each item; ``read``: item of a key."""

    def __init__(self, keys: Sequence, read: Callable[..., Item]) -> None:
        self.keys, self.read = keys, read

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> Lazy[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | Lazy[Item]:
        return Lazy(self.keys[index], self.read) if isinstance(index, slice) else self.read(self.keys[index])


def some_of(names: Iterable[str]) -> str:
    """The first names of a list as shown in messages, with the number of others."""
    names = list(names)
    more = f' and {len(names) - MAX_NAMED} more' if len(names) > MAX_NAMED else ''
    return ', '.join(map(printable, names[:MAX_NAMED])) + more


def files_by_name(
    folder: Path, extensions: tuple[str, ...] = EXTENSIONS, ending: str = '', deep: bool = False
) -> dict[str, str]:
    """Paths of the files of a folder by name without ending and extension, in the order of names.

    Args:
        folder: Names are relative to it; hidden files are skipped.
        extensions: Lower case; upper case is accepted as well.
        ending: Files whose name without extension does not end in this are skipped.
        deep: Also list subfolders.

    Raises:
        ValueError: Two files have the same name.
    """
    found: dict[str, str] = {}
    for path in sorted(_files(str(folder), deep)):
        stem, extension = os.path.splitext(os.path.relpath(path, folder))
        if extension.lower() not in extensions or is_hidden(stem) or not stem.endswith(ending):
            continue
        name = stem.removesuffix(ending)
        if name in found:
            raise ValueError(f'{printable(found[name])} and {printable(path)} have the same name: remove one of them')
        found[name] = path
    return found


def _files(folder: str, deep: bool) -> Iterable[str]:
    for parent, folders, names in os.walk(folder, followlinks=True):
        yield from (os.path.join(parent, name) for name in names)
        # A link may lead back to a folder it lies in.
        folders[:] = [name for name in folders if deep and not _contains(os.path.join(parent, name), parent)]


def _contains(folder: str, place: str) -> bool:
    return Path(os.path.realpath(place)).is_relative_to(os.path.realpath(folder))


def listed_names(path: Path) -> list[str]:
    """Names in a list file, one per line.

    Raises:
        ValueError: The list is empty, names one twice, or is not text.
    """
    names = [line for _, line in read_lines(path)]
    if not names:
        raise ValueError(f'{printable(path)} lists nothing')
    double = [name for name, count in Counter(names).items() if count > 1]
    if double:
        raise ValueError(f'{printable(path)} lists {some_of(double)} more than once')
    return names


def require(names: Iterable[str], found: Mapping[str, str], what: str, folder: Path, asking: str | Path) -> None:
    """Checks that files of all these names exist.

    Args:
        names: Without extensions.
        found: See :func:`files_by_name`.
        what: Of files, in messages: ``image``.
        folder: Where they were listed.
        asking: Which list or folder has the names.

    Raises:
        FileNotFoundError: Names how many are missing, and the first ones.
    """
    names = list(names)
    absent = [name for name in names if name not in found]
    if absent:
        raise FileNotFoundError(
            f'{printable(asking)}: {len(absent)} of {len(names)} names have no {what} in {printable(folder)}: '
            f'{some_of(absent)}'
        )


def listed_pairs(names: Sequence[str], images: Path, masks: Path, asking: Path) -> list[LabeledImage]:
    """Images and masks of listed names, in the order of the list.

    Raises:
        FileNotFoundError: Some are missing.
    """
    pictures, labels = files_by_name(images), files_by_name(masks)
    require(names, pictures, 'image', images, asking)
    require(names, labels, 'mask', masks, asking)
    return [LabeledImage(name, pictures[name], labels[name]) for name in names]


def paired_folders(
    images: Path, masks: Path, endings: tuple[str, str] = ('', ''), deep: bool = False, some: bool = False
) -> list[LabeledImage]:
    """All images of a folder with the masks of the same names, in the order of names.

    Args:
        images, masks: Folders.
        endings: Parts of the names of images and masks that differ, before the extension.
        deep: Also list subfolders.
        some: If few images have no mask, they are left out, which is logged.

    Raises:
        FileNotFoundError: No image or mask, an image without mask or a mask without image.
    """
    pictures = files_by_name(images, ending=endings[0], deep=deep)
    labels = files_by_name(masks, ending=endings[1], deep=deep)
    if not pictures:
        raise FileNotFoundError(f'{printable(images)} has no images: searched for names ending in {", ".join(EXTENSIONS)}')
    absent = [name for name in pictures if name not in labels] if some and labels else []
    if 0 < len(absent) <= len(pictures) * FEW:
        message = f'{printable(images)}: {len(absent)} of {len(pictures)} images have no mask in {printable(masks)}'
        print_log(f'{message} and are left out: {some_of(absent)}', 'current', logging.WARNING)
        pictures = {name: path for name, path in pictures.items() if name in labels}
    require(pictures, labels, 'mask', masks, images)
    require(labels, pictures, 'image', images, masks)
    return [LabeledImage(name, path, labels[name]) for name, path in pictures.items()]
