"""Sources of images with a common interface: files in a folder, tar shards, or a custom class."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np

from mmadclr.annotations import MaybeNone
from mmadclr.datasets.readers import Listing, existing_folder, read_class_folders, read_folder, read_list
from mmadclr.datasets.remote import expanded, join, read_small
from mmadclr.datasets.shard_cache import RemoteShards
from mmadclr.datasets.shared_listing import digest, shared_source
from mmadclr.datasets.tar_index import read_shards
from mmadclr.datasets.walking import directly_below
from mmadclr.names import is_hidden, printable, read_lines
from mmadclr.urls import is_url, shown

MAX_OPEN_SHARDS = 256
MAX_LOOSE = 100_000  # maximum images directly in a folder that each process lists itself
MAX_VIEWED = 1000  # files that a process checks against the listing of another
MAX_OPEN_COPIES = 32  # of remote shards; open ones cannot be evicted


class Source(ABC):
    """Images by index, as ``ImageDataset`` reads them.

    A custom source implements ``__len__``, ``read`` and ``name``, and is registered in ``IMAGE_SOURCES``. Loader workers get
    copies of it, so its attributes must not hold open files or connections.

    Attributes:
        labels: (N,) int64, or None.
        classes: Class names; empty if unknown.
        shard_of: (N,) index of each image's shard, non-decreasing; None without shards.
    """

    labels: np.ndarray | None = None
    classes: Sequence[str] = ()
    shard_of: np.ndarray | MaybeNone = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> bytes | np.ndarray:
        """Contents of an image file, or pixels (H, W) or (H, W, C), RGB; raises OSError."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Name of the image in messages and text files: one printable line, the same on every process."""

    def key(self, index: int) -> bytes:
        """Identifier of the image below its root: bytes of a relative path, or of shard and member."""
        return os.fsencode(self.name(index))


class FileSource(Source):
    """One file per image; see ``Source``.

    Args:
        root: Folder to which the listed paths are relative.
        listing: Result of a reader.
    """

    shard_of = None

    def __init__(self, root: str | Path, listing: Listing) -> None:
        self.root = Path(root)
        self._paths, self.labels, self.classes = listing

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, index: int) -> Path:
        return self.root / os.fsdecode(self._paths[index])

    def name(self, index: int) -> str:
        return printable(self.path(index))

    def key(self, index: int) -> bytes:
        return self._paths[index]

    def read(self, index: int) -> bytes:
        return self.path(index).read_bytes()

    def select(self, indices: np.ndarray) -> None:
        """Keeps only the images ``indices``."""
        self._paths = self._paths.take(indices)
        self.labels = None if self.labels is None else self.labels[indices]


class TarSource(Source):
    """Images in uncompressed tar files with webdataset's layout; see ``Source``.

    Args:
        root: Folder of the shards, or a URL for fsspec (``s3://``, ``gs://``, ``https://``), see
            :mod:`mmadclr.datasets.shard_cache`.
        pattern: Shard names: a glob (``*.tar``), a range in braces (``train-{000000..000146}.tar``), or a list of these.
        with_label: Read labels from the ``.cls`` or ``.json`` member of each image; class names, if known, from
            ``classes.txt`` next to the shards.

    Raises:
        FileNotFoundError, ValueError, OSError: See ``read_shards``.
    """

    def __init__(self, root: str | Path, pattern: str | Sequence[str], with_label: bool = False) -> None:
        self.shards, index = read_shards(root, pattern, with_label)
        self.shard_of, self._offsets, self._sizes, self._names = index.shard_of, index.offsets, index.sizes, index.names
        self._remote = RemoteShards(self.shards, index.versions) if is_url(self.shards[0]) else None
        self.labels = index.labels if with_label else None
        self.classes = read_classes(root, int(index.labels.max()) + 1) if with_label else ()
        self._files: dict[int, int] = {}  # shard -> open file
        self._owner = os.getpid()

    def __len__(self) -> int:
        return len(self._offsets)

    def name(self, index: int) -> str:
        return f'{shown(self.shards[self.shard_of[index]])}: {printable(os.fsdecode(self._names[index]))}'

    def key(self, index: int) -> bytes:
        shard = self.shards[self.shard_of[index]]
        return os.fsencode(os.path.basename(shard if self._remote is None else shown(shard))) + b': ' + self._names[index]

    def read(self, index: int) -> bytes:
        offset, size = int(self._offsets[index]), int(self._sizes[index])
        data = os.pread(self._file(int(self.shard_of[index])), size, offset)
        if len(data) < size:
            raise OSError(f'the shard ends {size - len(data)} bytes before the image does')
        return data

    def _file(self, shard: int) -> int:
        if self._owner != os.getpid():  # a forked worker must not close its parent's files
            self._files, self._owner = {}, os.getpid()
        file = self._files.pop(shard, None)
        if file is None:
            if len(self._files) >= (MAX_OPEN_SHARDS if self._remote is None else MAX_OPEN_COPIES):
                os.close(self._files.pop(next(iter(self._files))))  # the least recently used one
            file = os.open(self.shards[shard], os.O_RDONLY) if self._remote is None else self._remote.open(shard)
        self._files[shard] = file
        return file

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_files': {}}

    def __del__(self) -> None:
        if getattr(self, '_owner', None) == os.getpid():
            for file in self._files.values():
                os.close(file)


def read_classes(root: str | Path, count: int) -> tuple[str, ...]:
    """Class names, one per line in ``classes.txt``; if there is no such file, ``count`` numbers.

    Raises:
        ValueError: The file has fewer names.
    """
    path = join(str(root), 'classes.txt') if is_url(root) else Path(root) / 'classes.txt'
    lines = _lines(path)
    if lines is None:
        return tuple(str(label) for label in range(count))
    names = tuple(printable(lines.get(number, '')) for number in range(1, max(lines, default=0) + 1))
    if len(names) < count:
        raise ValueError(f'{shown(path)} has {len(names)} class names, but labels of the shards go up to {count - 1}')
    return names


def _lines(path: str | Path) -> dict[int, str] | None:
    """Lines of a local or remote text file by number; None if there is no such file."""
    if not is_url(path):
        return dict(read_lines(path)) if Path(path).exists() else None
    data = read_small(expanded(str(path)))
    if data is None:
        return None
    with NamedTemporaryFile(suffix='.txt') as file:
        file.write(data)
        file.flush()
        return dict(read_lines(file.name))


def find_source(
    data_root: str, ann_file: str | None, with_label: bool, shards: str | Sequence[str] | None
) -> FileSource | TarSource:
    """The source for the arguments of ``ImageDataset``; see also ``shared_listing``.

    Raises:
        FileNotFoundError, ValueError: See the readers; also if both a list and shards are set.
    """
    if shards is not None and ann_file is not None:
        raise ValueError(f'ann_file={str(ann_file)!r} and shards={shards!r}: set only one of them')
    if shards is None and is_url(data_root):
        raise ValueError(f'data_root={shown(data_root)}: only shards can be read from a URL; set shards of the data set')
    key = (absolute(data_root), None if ann_file is None else absolute(ann_file), with_label, str(shards))

    def make() -> FileSource | TarSource:
        if shards is not None:
            return TarSource(data_root, shards, with_label)
        if ann_file is not None:
            return FileSource(data_root, read_list(ann_file, data_root, with_label))
        return FileSource(data_root, read_class_folders(data_root) if with_label else read_folder(data_root))

    def view_of(source: FileSource | TarSource) -> object:
        if isinstance(source, TarSource):
            return view_of_shards(source.shards)
        return view_of_folder(data_root, source) if ann_file is None else view_of_list(ann_file, data_root)

    return shared_source(key, make, view_of)


def absolute(path: str | Path) -> str:
    """An absolute path; URLs are unchanged."""
    return str(path) if '://' in str(path) else os.path.abspath(path)


def view_of_folder(root: str | Path, source: FileSource) -> tuple | None:
    """Contents of a folder's top level; None if that is most of the listing, which should be done only once."""
    root = existing_folder(root)
    if len(source) > MAX_LOOSE and b'/' not in source.key(MAX_LOOSE):  # top-level images come first
        return None
    folders, images = directly_below(root)
    return folders, digest(images.data), digest(images.starts)


def view_of_list(ann_file: str | Path, root: str | Path) -> str | None:
    """Digest of a list; None if it does not exist."""
    existing_folder(root)
    path = Path(ann_file)
    return digest(np.frombuffer(path.read_bytes(), np.uint8)) if path.is_file() else None


def view_of_shards(shards: Sequence[str]) -> list:
    """Sizes of up to ``MAX_VIEWED`` shards, evenly spaced, and all shards in their folders."""
    local = [shard for shard in shards if '://' not in shard]
    sizes = [os.path.getsize(local[i]) if os.path.exists(local[i]) else None for i in spread(len(local), MAX_VIEWED)]
    folders = sorted({os.path.dirname(shard) for shard in local})
    return [sizes, [sorted(filter(is_shard, os.listdir(folder))) for folder in folders if os.path.isdir(folder)]]


def is_shard(name: str) -> bool:
    return name.endswith('.tar') and not is_hidden(name)


def spread(count: int, most: int, part: int = 0, parts: int = 1) -> list[int]:
    """Up to ``most`` indices below ``count``, evenly spaced; different ones for each of the ``parts``."""
    if count <= most:
        return list(range(count))
    return [(number * parts + part) * count // (most * parts) for number in range(most)]
