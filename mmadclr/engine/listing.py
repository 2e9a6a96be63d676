"""Whether all processes list the same images: of one folder, seen from several nodes, that is not certain."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from mmengine import dist
from mmengine.registry import DATASETS

from mmadclr.datasets.names import printable
from mmadclr.evaluation.extraction import together

BLOCK = 10_000  # images that a digest is made of


def listed_alike(cfg: Any) -> Any:
    """What stands for the data set of a loader: its config, where there is one process or the data set is built already.

    With several processes, the data set is built on all before anything else of the loader, and its images compared: names
    and labels, not contents or times. To be called on all processes.

    Raises:
        ValueError: They differ, on every process: names the first difference; or another process could not build it.
    """
    if dist.get_world_size() == 1 or not isinstance(cfg, Mapping):
        return cfg
    dataset = together(lambda: _build(cfg))
    check_same_images(dataset)
    return dict(type=lambda: dataset)  # which copies of the config share


def _build(cfg: Mapping) -> Any:
    """The data set with its list read, as mmengine's ``Runner.build_dataloader`` builds it."""
    dataset = DATASETS.build(dict(cfg))
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    return dataset


def check_same_images(dataset: Any) -> None:
    """Raises a ValueError, on every process, if one lists other images; to be called on all processes.

    The digests of the lists are exchanged; of lists that differ, the one block where they begin to.
    """
    dataset = _innermost(dataset)
    digests = dist.all_gather_object((socket.gethostname(), len(dataset), _digests(dataset)))
    block = _first_difference([digests for _, _, digests in digests])
    if block is None:
        return
    listed = dist.all_gather_object(list(islice(_lines(dataset), block * BLOCK, (block + 1) * BLOCK)))
    place = _first_difference(listed)
    rank = next(rank for rank, lines in enumerate(listed) if lines[place : place + 1] != listed[0][place : place + 1])
    seen = [
        f'{_shown(listed[r][place : place + 1])} on rank {r} ({digests[r][0]}, {digests[r][1]} images)' for r in (0, rank)
    ]
    name = printable(str(getattr(dataset, 'data_root', type(dataset).__name__)))
    raise ValueError(
        f'{name}: the processes list different images. The first '
        f'difference is image {block * BLOCK + place}: {" but ".join(seen)}. All nodes have to see the same files and lists'
    )


def _innermost(dataset: Any) -> Any:
    """The data set within wrappers that repeat or mix it."""
    while hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    return dataset


def _digests(dataset: Any) -> list[bytes]:
    lines = _lines(dataset)
    blocks = iter(lambda: list(islice(lines, BLOCK)), [])
    return [hashlib.sha256(b'\0\0'.join(block)).digest() for block in blocks]


def _lines(dataset: Any) -> Iterator[bytes]:
    """What is compared of each image: its name below the root and its label, if it has one."""
    source = getattr(dataset, 'source', None)
    if source is not None:
        labels = source.labels
        for index in range(len(source)):
            yield source.key(index) + (b'' if labels is None else b'\0%d' % labels[index])
    elif hasattr(dataset, 'get_data_info'):
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            label = info.get('gt_label')
            yield os.fsencode(str(info.get('img_path', index))) + (b'' if label is None else f'\0{label}'.encode())


def _first_difference(lists: Sequence[Sequence[bytes]]) -> int | None:
    """The first place at which lists are not all alike; None if they are."""
    for place in range(max(map(len, lists))):
        if len({tuple(items[place : place + 1]) for items in lists}) > 1:
            return place
    return None


def _shown(line: Sequence[bytes]) -> str:
    """A line as messages show it; it is missing where the list has ended."""
    if not line:
        return 'no more image'
    name, _, label = line[0].partition(b'\0')
    return printable(os.fsdecode(name)) + (f' with label {label.decode()}' if label else '')
