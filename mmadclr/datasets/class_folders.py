"""ClassFolders: labeled images in one folder a class, or a part of them, for mmpretrain's pipelines."""

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
    """Images in ``<data_root>/<split>/<class>/``; classes are the folders in alphabetical order, as of ImageNet.

    Args:
        data_root: Folder of the data set.
        split: Folder below it that holds the class folders.
        list_file: Text file, below ``data_root`` unless absolute, that names the images to use, one a line:
            ``<class>/<name>``; a bare name ``<class>_<number>.<extension>`` (the lists of 1 % and 10 % of ImageNet that
            google-research/simclr published); or either with the label behind it. Encodings: see ``names.read_lines``.
        part: ``'all'``, or ``'train'`` without ``'held_out'``, or ``'held_out'`` alone.
        held_out_fraction: Share of every class that is held out; see ``mmadclr.datasets.subsets.held_out``.
        held_out_seed: Which images they are.
        shots: So many images of each class, of the chosen part.
        shots_seed: Which images they are.
        pipeline: Transforms of a sample; it starts with ``img_path`` and ``gt_label``.
        indices: Only the first so many images, or those numbers.
        test_mode, lazy_init: See ``mmengine.dataset.BaseDataset``.

    Raises:
        FileNotFoundError: There is no such folder or list.
        ValueError: A class folder without images, a list that names images which are not there or leaves out a class,
            a part that does not exist, or fewer images of a class than shots.
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
                f'part={part!r} and held_out_fraction={held_out_fraction} of {data_root}: a fraction is held out of '
                "part='train' for part='held_out', and only there"
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
        """The folder of the class folders."""
        return Path(self.data_root, self.split)

    @property
    def list_path(self) -> Path:
        """The list of images to use, where there is one."""
        return Path(self.data_root, self.list_file)

    def load_data_list(self) -> list[dict]:
        """Paths and labels of the chosen images; sets the class names in ``metainfo``."""
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
        """Numbers of the images that list, part and shots leave, ascending."""
        labels = listing.labels
        chosen: np.ndarray = np.arange(len(labels))
        if self.list_file is not None:
            chosen = read_image_list(self.list_path, self.folder, listing)
        if self.held_out_fraction is not None:
            is_held_out = held_out(labels[chosen], self.held_out_fraction, self.held_out_seed)
            chosen = chosen[is_held_out == (self.part == 'held_out')]
        if self.shots is not None:  # by name, so that an error says it
            chosen = chosen[few_shot(np.array(listing.classes)[labels[chosen]], self.shots, self.shots_seed)]
        return chosen


def read_complete_folders(folder: Path) -> Listing:
    """Images of class folders none of which is empty.

    Raises:
        FileNotFoundError, ValueError: See ``read_class_folders``; also for an empty class folder, without which labels
            would not mean the same in another split.
    """
    listing = read_class_folders(existing_folder(folder))
    empty = sorted(set(map(printable, subfolders(folder))) - set(listing.classes))
    if empty:
        raise ValueError(
            f'{printable(folder)}: no image in the class folder {_shortened(empty)}; add images, or remove the folder'
        )
    return listing


def with_hidden(listing: Listing, folder: Path, path: Path) -> Listing:
    """The listing with the hidden images that a list names, which ``read_class_folders`` left out, behind the others.

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
    """Numbers of images by their names."""
    return {os.fsdecode(name): number for number, name in enumerate(listing.paths)}


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f'list of images {printable(path)} does not exist; set list_file of the data set')
    return [line for _, line in read_lines(path)]


def read_image_list(path: Path, folder: Path, listing: Listing) -> np.ndarray:
    """Ascending numbers, in ``listing``, of the images a text file names; for its lines see ``ClassFolders``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Names without image, names twice, labels that are not those of the folders, classes without image.
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
                f'{printable(path)}: {line!r} has label {label}, but {expected} is that of its class folder; labels '
                'number the folders in alphabetical order, and may be left out'
            )
    if unknown:
        where = f'{printable(path)}: {len(unknown)} of {len(lines)} lines'
        raise ValueError(f'{where} name no image in {printable(folder)}: {_shortened(unknown)}')
    repeated = [os.fsdecode(listing.paths[number]) for number, count in Counter(chosen).items() if count > 1]
    if repeated:
        raise ValueError(f'{printable(path)} names images more than once: {_shortened(repeated)}')
    present = listing.labels[np.array(chosen, dtype=np.int64)]
    missing = np.setdiff1d(np.arange(len(listing.classes)), present).tolist()
    if missing:
        names = [listing.classes[label] for label in missing]
        raise ValueError(
            f'{printable(path)} names no image of {len(names)} classes of {printable(folder)}: {_shortened(names)}'
        )
    return np.sort(np.array(chosen, dtype=np.int64))


def _parse_line(line: str, numbers: dict[str, int]) -> tuple[str, int | None]:
    """Relative path of the image a line names, and its label if there is one; names may hold blanks."""
    name, _, label = line.rpartition(' ')
    if not (label.isascii() and label.isdecimal()) or _with_folder(line) in numbers:
        return _with_folder(line), None
    return _with_folder(name.strip()), int(label)


def _with_folder(name: str) -> str:
    return name if '/' in name else f'{name.rpartition("_")[0]}/{name}'


def _shortened(names: Sequence[str]) -> str:
    more = f' and {len(names) - MAX_NAMED} more' if len(names) > MAX_NAMED else ''
    return ', '.join(map(printable, names[:MAX_NAMED])) + more
