"""Whether all processes list the same images: of one folder, seen from several nodes, that is not certain."""

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

from mmadclr.datasets.byte_strings import ByteStrings
from mmadclr.datasets.image_dataset import ImageDataset
from mmadclr.datasets.shared_listing import Exchange, digest, exchanging, is_visible
from mmadclr.datasets.sources import MAX_VIEWED, FileSource, TarSource, spread
from mmadclr.distributed.agreement import together
from mmadclr.names import printable

T = TypeVar('T')
MAX_SHOWN = 10  # images of a list that a process reports as missing
BLOCK = 10_000  # images that a digest is made of


_folder: list[str] = []  # of the run, for lists that its processes share


def share_in(folder: str | Path) -> None:
    """Lists of images go below this folder from now on, where processes share them; all nodes should see it."""
    _folder[:] = [str(folder)]


def listed_alike(cfg: Any) -> Any:
    """What stands for the data set of a loader: its config, where there is one process or the data set is built already.

    With several processes, the data set is built on all before anything else of the loader, and its images compared: names
    and labels, not contents or times. Those of an ``ImageDataset`` are listed by one process; see ``built_alike``. To be
    called on all processes.

    Raises:
        ValueError: They differ, on every process: names the first difference; or another process could not build it.
    """
    if dist.get_world_size() == 1 or not isinstance(cfg, Mapping):
        return cfg
    build = partial(_build, cfg)
    dataset = built_alike(build, *_folder) if _is_ours(cfg) else together(build)
    check_same_images(dataset)
    return dict(type=lambda: dataset)  # which copies of the config share


def _is_ours(cfg: Mapping) -> bool:
    """Whether the images of a data set, or of one within it, come from ``find_source``."""
    inner = cfg.get('dataset')
    if isinstance(inner, Mapping):
        return _is_ours(inner)
    kind = cfg.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(cfg.get('_scope_')) as registry:
            kind = registry.get(kind)
    return isinstance(kind, type) and issubclass(kind, ImageDataset)


def built_alike(build: Callable[[], T], *folders: str | Path) -> T:
    """What ``build`` returns, on every process, where one process alone has looked for images.

    The main process builds first and writes its lists below one of ``folders`` or, if it cannot, in the folder for
    temporary files; the others map these. On a node that does not see them, its first process does the same for that node.
    A process that sees other files there than were listed looks for itself, and ``check_same_images`` will tell.

    Args:
        build: The same on all processes; it holds no collective operations.
        folders: Where lists may be written; the best is one that all nodes see.

    Raises:
        ValueError: ``build`` failed on another process, or an image that was listed is not there on all, on every process.
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


def _turn(build: Callable[[], T], exchange: Exchange | None) -> tuple[T | None, Exchange]:
    """Builds with an exchange, on the processes that have one; errors end all."""

    def work() -> T | None:
        if exchange is None:
            return None
        with exchanging(exchange):
            return build()

    return together(work), exchange or Exchange()


def _temporary() -> str:
    return os.path.join(tempfile.gettempdir(), f'mmadclr-{os.getuid()}', 'listing')


def _check_sample(exchange: Exchange) -> None:
    """Raises a ValueError, on all processes, if images that the main process sees are not there on another.

    A process that has listed nothing itself looks for up to ``MAX_VIEWED`` of each list, other ones than the next process.
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
                    f'{name} is not there on rank {other} ({host}), but on rank 0 ({found[0][0]}), which listed the images. '
                    'All nodes have to see the same files and lists'
                )


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
    quick = set(dist.all_gather_object(_quick_digest(getattr(dataset, 'source', None))))
    if len(quick) == 1 and None not in quick:
        return
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


def _quick_digest(source: Any) -> tuple | None:
    """Of what ``_lines`` says of each image, array by array; lists that differ in it are compared line by line.

    None for a source without such arrays, as one of a user's own may be.
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
