"""Small tar shards for tests."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def image_bytes(seed, kind='jpeg', size=(48, 40)):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w', format=kind) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_shards(root: Path, count: int = 3, images: int = 4, label: bool = True) -> Path:
    """``count`` shards of ``images`` JPEGs; image n has label n % 3."""
    for shard in range(count):
        members = {}
        for number in range(shard * images, (shard + 1) * images):
            members[f'{number:04d}.jpg'] = image_bytes(number)
            if label:
                members[f'{number:04d}.cls'] = str(number % 3).encode()
        write_tar(root / f'train-{shard:03d}.tar', members)
    return root
