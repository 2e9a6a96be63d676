"""Ensures that all processes list the same images, which is not guaranteed across nodes."""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from mmengine import dist
from mmengine.registry import DATASETS

from mmadclr.annotations import MaybeNone
from mmadclr.datasets.byte_strings import ByteStrings
from mmadclr.datasets.image_dataset import ImageDataset
from mmadclr.datasets.shared_listing import Exchange, digest, exchanging, is_visible
from mmadclr.datasets.sources import MAX_VIEWED, FileSource, TarSource, spread
from mmadclr.distributed.agreement import together
from mmadclr.names import printable

T = TypeVar('T')
MAX_SHOWN = 10  # missing images of a list that a process reports
BLOCK = 10_000  # images per digest


_folder: list[str] = []  # of the run, for shared lists


def share_in(folder: str | Path) -> None:
    """Sets the folder for image lists shared by processes; all nodes should see it."""
    _folder[:] = [str(folder)]


def listed_alike(cfg: Any) -> Any:
    """Replacement for the data set of a loader: its config with a single process or if the data set is already built.

    With several processes, the data set is built on all before the rest of the loader, and its images are compared: names
    and labels, not contents or times. Those of an ``ImageDataset`` are listed by one process; see ``built_alike``.
    Collective call.

    Raises:
        ValueError: They differ (states the first difference), or another process could not build it; raised on every
            process.
    """
    if dist.get_world_size() == 1 or not isinstance(cfg, Mapping):
        return cfg
    build = partial(_build, cfg)
    dataset = built_alike(build, *_folder) if _is_ours(cfg) else together(build)
    check_same_images(dataset)
    return dict(type=lambda: dataset)  # shared by copies of the config


def _is_ours(cfg: Mapping) -> bool:
    """Whether the images of a data set, or of one nested in it, come from ``find_source``."""
    inner = cfg.get('dataset')
    if isinstance(inner, Mapping):
        return _is_ours(inner)
    kind = cfg.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(cfg.get('_scope_')) as registry:
            kind = registry.get(kind)
    return isinstance(kind, type) and issubclass(kind, ImageDataset)


def built_alike(build: Callable[[], T], *folders: str | Path) -> T:
    """The result of ``build`` on every process, with a single process listing the images.

    The main process builds first and writes its lists to one of ``folders`` or, if it cannot, to the temporary folder;
    the others memory-map these. On nodes that do not see them, the first process of the node does the same.
    A process that sees different files than were listed lists them itself, and ``check_same_images`` reports it.

    Args:
        build: The same on all processes, without collective operations.
        folders: Where lists may be written; preferably visible to all nodes.

    Raises:
        ValueError: ``build`` failed on another process, or a listed image is missing on some process; on every process.
    """
    if dist.get_world_size() == 1:
        return build()
    rank, host = dist.get_rank(), socket.gethostname()
    places = (*(os.path.join(folder, 'listing') for folder in folders), _temporary())
    result, exchange = _turn(build, Exchange(places) if rank == 0 else None)
    known = dist.all_gather_object(exchange.written)[0]
    blind = dist.all_gather_object((host, rank > 0 and not all(map(is_visible, known.values()))))
    chosen = {blind.index((name, True)) for name, is_blind in blind if is_blind}  # the first process of each such node
    if chosen:
        own, made = _turn(build, Exchange(places[-1:]) if rank in chosen else None)
        result, exchange = (own, made) if rank in chosen else (result, exchange)
        told = dist.all_gather_object((host, made.written))
        if blind[rank][1]:
            known = next((written for name, written in told if name == host and written), {})
    late = rank > 0 and rank not in chosen
    own, made = _turn(build, Exchange(known=known) if late else None)
    result, exchange = (own, made) if late else (result, exchange)
    _check_sample(exchange)
    return result


def _turn(build: Callable[[], T], exchange: Exchange | None) -> tuple[T | MaybeNone, Exchange]:
    """Builds with an exchange, on the processes that have one; an error is raised on all."""

    def work() -> T | None:
        if exchange is None:
            return None
        with exchanging(exchange):
            return build()

    return together(work), exchange or Exchange()


def _temporary() -> str:
    return os.path.join(tempfile.gettempdir(), f'mmadclr-{os.getuid()}', 'listing')


def _check_sample(exchange: Exchange) -> None:
    """Raises ValueError on all processes if images seen by the main process are missing on another.

    A process that did not list images itself checks up to ``MAX_VIEWED`` of each list, different ones on each process.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    missing = []
    for key in sorted(exchange.mapped, key=str):
        source = exchange.sources[key]
        if isinstance(source, FileSource):
            numbers = spread(len(source), MAX_VIEWED, rank, size)
            missing += [(key, number) for number in numbers if not os.path.lexists(source.path(number))][:MAX_SHOWN]
    found = dist.all_gather_object((socket.gethostname(), missing))
    there = [
        [key in exchange.sources and os.path.lexists(exchange.sources[key].path(number)) for key, number in of_rank]
        for _, of_rank in found
    ]
    for other, ((host, of_rank), seen) in enumerate(zip(found, dist.all_gather_object(there)[0], strict=True)):
        for (key, number), is_there in zip(of_rank, seen, strict=True):
            if is_there:
                name = exchange.sources[key].name(number) if key in exchange.sources else f'image {number} of {key[0]}'
                raise ValueError(
                    f'{name} is missing on rank {other} ({host}), but exists on rank 0 ({found[0][0]}), which listed the '
                    'images. All nodes must see the same files and lists'
                )


def _build(cfg: Mapping) -> Any:
    """The data set with its list loaded, as built by mmengine's ``Runner.build_dataloader``."""
    dataset = DATASETS.build(dict(cfg))
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    return dataset


def check_same_images(dataset: Any) -> None:
    """Raises ValueError on every process if one lists different images; collective call.

    Exchanges digests of the lists; if they differ, also the first differing block.
    """
    dataset = _innermost(dataset)
    quick = set(dist.all_gather_object(_quick_digest(getattr(dataset, 'source', None))))
    if len(quick) == 1 and None not in quick:
        return
    digests = dist.all_gather_object((socket.gethostname(), len(dataset), _digests(dataset)))
    block = _first_difference([digests for _, _, digests in digests])
    if block is None:
        return
    listed = dist.all_gather_object(list(islice(_lines(dataset), block * BLOCK, (block + 1) * BLOCK)))
    place: int | MaybeNone = _first_difference(listed)
    rank = next(rank for rank, lines in enumerate(listed) if lines[place : place + 1] != listed[0][place : place + 1])
    seen = [
        f'{_shown(listed[r][place : place + 1])} on rank {r} ({digests[r][0]}, {digests[r][1]} images)' for r in (0, rank)
    ]
    name = printable(str(getattr(dataset, 'data_root', type(dataset).__name__)))
    raise ValueError(
        f'{name}: the processes list different images. The first '
        f'difference is image {block * BLOCK + place}: {" but ".join(seen)}. All nodes must see the same files and lists'
    )


def _innermost(dataset: Any) -> Any:
    """The data set inside wrappers that repeat or mix it."""
    while hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    return dataset


def _quick_digest(source: Any) -> tuple | None:
    """Digest of each array that determines ``_lines``; lists with different digests are compared line by line.

    None for a source without such arrays, such as a user-defined one.
    """
    if not isinstance(source, (FileSource, TarSource)):
        return None
    names = source._paths if isinstance(source, FileSource) else source._names
    parts = [names.data, names.starts] if isinstance(names, ByteStrings) else [names]
    parts += [part for part in (source.labels, source.shard_of) if part is not None]
    shards = [os.path.basename(shard) for shard in getattr(source, 'shards', ())]
    return (*map(digest, parts), source.labels is None, tuple(shards))


def _digests(dataset: Any) -> list[bytes]:
    lines = _lines(dataset)
    blocks = iter(lambda: list(islice(lines, BLOCK)), [])
    return [hashlib.sha256(b'\0\0'.join(block)).digest() for block in blocks]


def _lines(dataset: Any) -> Iterator[bytes]:
    """The compared properties of each image: its relative name and its label, if any."""
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
    """The first index at which the lists differ; None if they are equal."""
    for place in range(max(map(len, lists))):
        if len({tuple(items[place : place + 1]) for items in lists}) > 1:
            return place
    return None


def _shown(line: Sequence[bytes]) -> str:
    """A line as shown in messages; missing at the end of a list."""
    if not line:
        return 'no more image'
    name, _, label = line[0].partition(b'\0')
    return printable(os.fsdecode(name)) + (f' with label {label.decode()}' if label else '')
