"""Tar shards: finding the images in them, large photographs packed smaller, and shards of a web server."""

from __future__ import annotations

import functools
import http.server
import io
import os
import tarfile
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import common
import numpy as np
from common import Row
from PIL import Image

from mmadclr.datasets import ImageDataset
from mmadclr.datasets.packing import pack_shards
from mmadclr.datasets.sources import TarSource
from mmadclr.datasets.tar_index import scan_shard

IMAGES = 3000  # in a shard that is indexed
BYTES = 20_000  # of each
PHOTOS, PHOTO = 6, (2048, 1536)
MAX_SIDE = 512


def rows(scale: float = 1.0) -> list[Row]:
    rounds = max(2, round(9 * scale))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [*index_rows(folder, max(20, round(IMAGES * scale)), rounds), photo_row(folder, rounds), *store_rows(folder)]


def index_rows(folder: Path, count: int, rounds: int) -> list[Row]:
    """Microseconds an image, against a walk by ``tarfile``."""
    found = []
    for labeled in (False, True):
        shard = folder / f'{labeled}.tar'
        write_shard(shard, count, labeled)
        ours, theirs, ratio, ratios = common.compare(partial(scan_shard, str(shard)), partial(by_tarfile, shard), rounds)
        what = 'with labels' if labeled else 'without labels'
        micro = [seconds / count * 1e6 for seconds in (ours, theirs)]
        found.append(Row(f'index of a shard {what}', 'us/image', *micro, ratio, (ratios[0], ratios[-1])))
    return found


def write_shard(path: Path, count: int, labeled: bool) -> None:
    with tarfile.open(path, 'w', format=tarfile.USTAR_FORMAT) as tar:
        for number in range(count):
            parts = {'.jpg': bytes(BYTES), **({'.cls': b'%d' % (number % 1000)} if labeled else {})}
            for extension, data in parts.items():
                member = tarfile.TarInfo(f'{number:09d}{extension}')
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def by_tarfile(path: Path) -> dict[str, tuple]:
    """Name, place, size and label of every image, as the standard library reads a tar file."""
    images, labels = {}, {}
    with tarfile.open(path, 'r:') as tar, open(path, 'rb') as file:
        while (member := tar.next()) is not None:
            tar.members.clear()
            key, extension = os.path.splitext(member.name)
            if extension == '.cls':
                file.seek(member.offset_data)
                labels[key] = int(file.read(member.size))
            else:
                images[key] = (member.name, member.offset_data, member.size)
    return {key: (*place, labels.get(key, -1)) for key, place in images.items()}


def photo_row(folder: Path, rounds: int) -> Row:
    """Milliseconds an image from its file to crops, packed at ``MAX_SIDE`` and as it was."""
    (folder / 'photos').mkdir()
    for number in range(PHOTOS):
        photograph(number).save(folder / 'photos' / f'{number}.jpg', quality=92)
    datasets = []
    for name, side in (('small', MAX_SIDE), ('whole', None)):
        pack_shards(folder / 'photos', folder / name, PHOTOS, max_side=side)
        datasets.append(ImageDataset(str(folder / name), dict(type='mmadclr.MultiCrop', num_query=10), shards='*.tar'))
    row = common.timed_row(f'crops of {PHOTO[0]}x{PHOTO[1]} photographs, packed', *map(all_of, datasets), rounds)
    sizes = [sum(path.stat().st_size for path in (folder / name).glob('*.tar')) / PHOTOS for name in ('small', 'whole')]
    row.ours, row.reference, row.unit = row.ours / PHOTOS, row.reference / PHOTOS, 'ms/image'
    row.note = f'{sizes[0] / 1e3:.0f} instead of {sizes[1] / 1e3:.0f} kB an image'
    return row


def photograph(seed: int) -> Image.Image:
    """Noise of all scales, about as much in each, as photographs have it."""
    rng = np.random.default_rng(seed)
    sides = [(PHOTO[0] >> level, PHOTO[1] >> level) for level in range(9)]
    layers = (Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)).resize(PHOTO) for w, h in sides)
    mixed = sum(np.asarray(layer, dtype=np.float32) * (level + 1) for level, layer in enumerate(layers))
    return Image.fromarray((mixed / sum(range(1, len(sides) + 1))).astype(np.uint8))


def all_of(dataset: ImageDataset) -> Callable[[], object]:
    return lambda: dataset.__getitems__(range(len(dataset)))


def store_rows(folder: Path) -> list[Row]:
    """Wall-clock times are of no use on one machine, so what is counted: requests, and bytes, of two passes over a store."""
    handler = functools.partial(Counted, directory=str(folder / 'whole'))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Counted.requests = Counted.sent = 0
    try:
        with mock.patch.dict(os.environ, XDG_CACHE_HOME=str(folder / 'cache')):
            source = TarSource(f'http://127.0.0.1:{server.server_port}', '{000000..000000}.tar')
            size = sum(len(source.read(index)) for _ in range(2) for index in range(len(source)))
    finally:
        server.shutdown()
    return [
        common.counted_row('requests of two passes over a shard of a web server', '', Counted.requests, 2 * PHOTOS),
        common.counted_row('bytes of them', 'MB', Counted.sent / 1e6, size / 1e6, note='reference: an image a request'),
    ]


class Counted(http.server.SimpleHTTPRequestHandler):
    """Counts requests for contents, and what it sends; knows no ranges."""

    requests = sent = 0

    def do_GET(self) -> None:
        Counted.requests += 1
        Counted.sent += os.path.getsize(self.translate_path(self.path))
        super().do_GET()

    def log_message(self, *_) -> None:
        pass
