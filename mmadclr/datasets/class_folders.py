"""ClassFolders: labeled images in one folder per class, or a subset of them, for mmpretrain's pipelines."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.dataset import BaseDataset

from mmadclr.annotations import MaybeNone
from mmadclr.datasets.byte_strings import ByteStrings
from mmadclr.datasets.readers import Listing, existing_folder, read_class_folders
from mmadclr.datasets.subsets import few_shot, held_out
from mmadclr.datasets.walking import EXTENSIONS, subfolders
from mmadclr.names import is_hidden, printable, read_lines
from mmadclr.registry import DATASETS

PARTS = ('all', 'train', 'held_out')
MAX_NAMED = 5


@DATASETS.register_module()
class ClassFolders(BaseDataset):
    """Images in ``<data_root>/<split>/<class>/``; classes are the folders in alphabetical order, as in ImageNet.

    Args:
        data_root: Folder of the data set.
        split: Subfolder that contains the class folders.
        list_file: Text file, relative to ``data_root`` unless absolute, with one image per line:
            ``<class>/<name>``; a bare name ``<class>_<number>.<extension>`` (the 1 % and 10 % ImageNet lists of
            google-research/simclr); or either followed by the label. Encodings: see ``names.read_lines``.
        part: ``'all'``, ``'held_out'``, or ``'train'`` for the rest.
        held_out_fraction: Fraction of every class that is held out; see ``mmadclr.datasets.subsets.held_out``.
        held_out_seed: Seed that selects them.
        shots: Number of images per class, from the chosen part.
        shots_seed: Seed that selects them.
        pipeline: Transforms of a sample, which has ``img_path`` and ``gt_label``.
        indices: Use only this many first images, or only these indices.
        test_mode, lazy_init: See ``mmengine.dataset.BaseDataset``.

    Raises:
        FileNotFoundError: There is no such folder or list.
        ValueError: A class folder without images, a list with missing images or without images of a class,
            an unknown part, or fewer images in a class than ``shots``.
    """

    def __init__(
        self,
        data_root: str,
        split: str = '',
        list_file: str | None = None,
        part: str = 'all',
        held_out_fraction: float | None = None,
        held_out_seed: int = 0,
        shots: int | None = None,
        shots_seed: int = 0,
        pipeline: Sequence = (),
        indices: int | Sequence[int] | None = None,
        test_mode: bool = False,
        lazy_init: bool = False,
    ) -> None:
        if part not in PARTS:
            raise ValueError(f'part={part!r} of {data_root}: choose {", ".join(map(repr, PARTS))}')
        if (part == 'all') != (held_out_fraction is None):
            raise ValueError(
                f'part={part!r} and held_out_fraction={held_out_fraction} of {data_root}: set held_out_fraction for '
                "part='train' and part='held_out', and only for these"
            )
        self.split = split
        self.list_file: str | MaybeNone = list_file
        self.part, self.held_out_fraction, self.held_out_seed = part, held_out_fraction, held_out_seed
        self.shots, self.shots_seed = shots, shots_seed
        super().__init__(
            data_root=data_root, pipeline=list(pipeline), indices=indices, test_mode=test_mode, lazy_init=lazy_init
        )

    @property
    def folder(self) -> Path:
        """Parent folder of the class folders."""
        return Path(self.data_root, self.split)

    @property
    def list_path(self) -> Path:
        """Path of the list of images, if there is one."""
        return Path(self.data_root, self.list_file)

    def load_data_list(self) -> list[dict]:
        """Paths and labels of the selected images; sets the class names in ``metainfo``."""
        listing = read_complete_folders(self.folder)
        self._metainfo['classes'] = listing.classes
        if self.list_file is not None:
            listing = with_hidden(listing, self.folder, self.list_path)
        chosen = self.choose(listing)
        return [
            dict(img_path=os.path.join(self.folder, os.fsdecode(path)), gt_label=label)
            for path, label in zip(listing.paths.take(chosen), listing.labels[chosen].tolist(), strict=True)
        ]

    def choose(self, listing: Listing) -> np.ndarray:
        """Indices of the images selected by list, part and shots, ascending."""
        labels = listing.labels
        chosen: np.ndarray = np.arange(len(labels))
        if self.list_file is not None:
            chosen = read_image_list(self.list_path, self.folder, listing)
        if self.held_out_fraction is not None:
            is_held_out = held_out(labels[chosen], self.held_out_fraction, self.held_out_seed)
            chosen = chosen[is_held_out == (self.part == 'held_out')]
        if self.shots is not None:  # by name, for error messages
            chosen = chosen[few_shot(np.array(listing.classes)[labels[chosen]], self.shots, self.shots_seed)]
        return chosen


def read_complete_folders(folder: Path) -> Listing:
    """Images of class folders, all of which must be non-empty.

    Raises:
        FileNotFoundError, ValueError: See ``read_class_folders``; also for an empty class folder, which would shift the
            labels relative to other splits.
    """
    listing = read_class_folders(existing_folder(folder))
    empty = sorted(set(map(printable, subfolders(folder))) - set(listing.classes))
    if empty:
        raise ValueError(
            f'{printable(folder)}: no image in the class folder {_shortened(empty)}; add images, or remove the folder'
        )
    return listing


def with_hidden(listing: Listing, folder: Path, path: Path) -> Listing:
    """The listing plus hidden images named in a list, which ``read_class_folders`` skips, appended at the end.

    Raises:
        FileNotFoundError, ValueError: See ``read_image_list``.
    """
    numbers = _numbers(listing)
    named = (_parse_line(line, numbers)[0] for line in _lines(path))
    firsts = np.unique(listing.labels, return_index=True)[1]
    labels = {os.fsdecode(listing.paths[first]).split(os.sep, 1)[0]: label for label, first in enumerate(firsts)}
    hidden = [
        name
        for name in dict.fromkeys(named)
        if is_hidden(name) and name.split('/', 1)[0] in labels and name.lower().endswith(EXTENSIONS)
    ]
    hidden = [name for name in hidden if (folder / name).is_file()]
    more = [labels[name.split('/', 1)[0]] for name in hidden]
    paths = ByteStrings.of([*listing.paths, *map(os.fsencode, hidden)])
    return Listing(paths, np.concatenate([listing.labels, np.array(more, dtype=np.int64)]), listing.classes)


def _numbers(listing: Listing) -> dict[str, int]:
    """Indices of images by name."""
    return {os.fsdecode(name): number for number, name in enumerate(listing.paths)}


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f'list of images {printable(path)} does not exist; set list_file of the data set')
    return [line for _, line in read_lines(path)]


def read_image_list(path: Path, folder: Path, listing: Listing) -> np.ndarray:
    """Ascending indices, in ``listing``, of the images named in a text file; see ``ClassFolders`` for its lines.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Missing images, duplicate names, labels that differ from those of the folders, classes without image.
    """
    lines = _lines(path)
    numbers = _numbers(listing)
    chosen, unknown = [], []
    for line in lines:
        name, label = _parse_line(line, numbers)
        if name not in numbers:
            unknown.append(line)
            continue
        chosen.append(numbers[name])
        expected = listing.labels[chosen[-1]]
        if label is not None and label != expected:
            raise ValueError(
                f'{printable(path)}: {line!r} has label {label}, but its class folder has label {expected}; labels '
                'number the folders in alphabetical order, and may be omitted'
            )
    if unknown:
        where = f'{printable(path)}: {len(unknown)} of {len(lines)} lines'
        raise ValueError(f'{where} do not match an image in {printable(folder)}: {_shortened(unknown)}')
    repeated = [os.fsdecode(listing.paths[number]) for number, count in Counter(chosen).items() if count > 1]
    if repeated:
        raise ValueError(f'{printable(path)} lists images more than once: {_shortened(repeated)}')
    present = listing.labels[np.array(chosen, dtype=np.int64)]
    missing = np.setdiff1d(np.arange(len(listing.classes)), present).tolist()
    if missing:
        names = [listing.classes[label] for label in missing]
        raise ValueError(
            f'{printable(path)} lists no image of {len(names)} classes in {printable(folder)}: {_shortened(names)}'
        )
    return np.sort(np.array(chosen, dtype=np.int64))


def _parse_line(line: str, numbers: dict[str, int]) -> tuple[str, int | None]:
    """Relative path of the image in a line, and its label if present; names may contain blanks."""
    name, _, label = line.rpartition(' ')
    if not (label.isascii() and label.isdecimal()) or _with_folder(line) in numbers:
        return _with_folder(line), None
    return _with_folder(name.strip()), int(label)


def _with_folder(name: str) -> str:
    return name if '/' in name else f'{name.rpartition("_")[0]}/{name}'


def _shortened(names: Sequence[str]) -> str:
    more = f' and {len(names) - MAX_NAMED} more' if len(names) > MAX_NAMED else ''
    return ', '.join(map(printable, names[:MAX_NAMED])) + more
