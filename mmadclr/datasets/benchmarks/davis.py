"""DAVIS 2017: validation videos at 480p with the masks of their objects.

Pont-Tuset et al., *The 2017 DAVIS challenge on video object segmentation*, 2017.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmadclr.datasets.benchmarks.labels import check_size
from mmadclr.datasets.benchmarks.layouts import Guide, locate
from mmadclr.datasets.benchmarks.listing import files_by_name, listed_names, require, some_of
from mmadclr.datasets.benchmarks.types import VOID, Video, VideoBenchmark
from mmadclr.datasets.label_maps import LabelMapError, open_label_map
from mmadclr.names import printable

FRAMES, MASKS, LIST = 'JPEGImages/480p', 'Annotations/480p', 'ImageSets/2017/val.txt'
MIN_FRAMES = 3
GUIDE = Guide(
    ('.', 'DAVIS', 'DAVIS2017', 'davis', 'davis/DAVIS'),
    {'2017': (FRAMES, MASKS, LIST)},
    'DAVIS/{JPEGImages,Annotations}/480p/<video>/*.{jpg,png}, DAVIS/ImageSets/2017/val.txt',
    'davischallenge.org/davis2017/code.html (DAVIS-2017-trainval-480p.zip)',
)


class ObjectReader:
    """Reads annotations. ``frames``: the frame of each annotation, which must have the same size."""

    def __init__(self, frames: dict[str, str]) -> None:
        self.frames = frames

    def __call__(self, path: str) -> np.ndarray:
        """(H, W) uint8: 0 background, 1, 2, ... objects, 255 ignored.

        Raises:
            ValueError: The file cannot be read, has colors instead of a palette, labels above 255, or another size than its
                frame; or it has one object written as 255, as in DAVIS 2016.
        """
        image = open_label_map(path)
        labels = np.array(image).astype(np.int64)
        if labels.min() < 0 or labels.max() > VOID:
            raise LabelMapError(f'mask {printable(path)} has the label {labels.max()}: objects must be 1 to 254')
        if image.mode != 'P' and set(np.unique(labels)) in ({0, VOID}, {VOID}):
            raise LabelMapError(
                f'mask {printable(path)} has only 0 and 255, like those of DAVIS 2016: those of 2017 have a palette, and '
                'objects are 1, 2, ...'
            )
        if path in self.frames:
            check_size(path, image.size, self.frames[path])
        return labels.astype(np.uint8)


def open_davis(root: str) -> VideoBenchmark:
    """DAVIS 2017, 30 validation videos, in the order of the list.

    Raises:
        LayoutError: Parts are missing.
        FileNotFoundError: Listed videos are missing, or frames without annotation or the reverse.
        ValueError: A video has fewer than three frames (the first and last are not scored), or frames are not numbered
            consecutively.
    """
    base = locate('davis', root, GUIDE).base
    names = listed_names(base / LIST)
    for folder in (base / FRAMES, base / MASKS):
        absent = [name for name in names if not (folder / name).is_dir()]
        if absent:
            raise FileNotFoundError(
                f'{printable(base / LIST)}: {len(absent)} of {len(names)} videos have no folder in {printable(folder)}: '
                f'{some_of(absent)}'
            )
    videos = [_video(name, base / FRAMES / name, base / MASKS / name) for name in names]
    pairs = {mask: frame for video in videos for frame, mask in zip(video.frames, video.annotations, strict=True)}
    return VideoBenchmark('davis', videos, ObjectReader(pairs))


def _video(name: str, frames: Path, masks: Path) -> Video:
    pictures, labels = files_by_name(frames), files_by_name(masks)
    require(pictures, labels, 'annotation', masks, frames)
    require(labels, pictures, 'frame', frames, masks)
    if len(pictures) < MIN_FRAMES:
        raise ValueError(f'video {printable(frames)} has {len(pictures)} frame(s): there must be at least {MIN_FRAMES}')
    order = _in_time(list(pictures), frames)
    return Video(name, tuple(pictures[each] for each in order), tuple(labels[each] for each in order))


def _in_time(names: list[str], folder: Path) -> list[str]:
    """Names of frames by number."""
    others = [name for name in names if not name.isdecimal()]
    if others:
        raise ValueError(f'video {printable(folder)}: names of frames must be numbers, but there is {some_of(others)}')
    ordered = sorted(names, key=int)
    numbers = [int(name) for name in ordered]
    present = set(numbers)
    gaps = [str(number) for number in range(numbers[0], numbers[-1]) if number not in present]
    if gaps or len(present) < len(numbers):
        problem = f'frames {some_of(gaps)} are missing' if gaps else 'two frames have the same number'
        raise ValueError(f'video {printable(folder)}: {problem}')
    return ordered
