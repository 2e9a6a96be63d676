"""Whole images of a batch in one array, for crops that are cut on the device.

Shape legend: B images of a batch, each of H x W pixels of its own.

A worker decodes (or, for a device that decodes, only reads) and hands on one array of bytes for all images, one after the
other, with their sizes; nothing is padded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from mmadclr.datasets.decoding import Scratch

PIXELS, FILE = 'image_pixels', 'image_file'  # of a sample; both are packed by ``collate_samples``


class Arena(Scratch):
    """Memory that the images of a batch are decoded into, one behind the other, and those of the next batch again.

    Where room ends, a larger block follows; what lies in the old one stays valid.
    """

    def __init__(self) -> None:
        super().__init__()
        self._used = 0

    def begin(self) -> None:
        """Everything handed out before may be overwritten."""
        self._used = 0

    def get(self, size: int) -> np.ndarray:
        """(size,) uint8, valid until ``begin``."""
        if self._used + size > len(self._bytes):
            self._bytes, self._used = np.empty(max(2 * len(self._bytes), size), dtype=np.uint8), 0
        self._used += size
        return self._bytes[self._used - size : self._used]

    def __getstate__(self) -> dict:
        return super().__getstate__() | dict(_used=0)


class PackedSamples(list):
    """Samples whose images are parts of arrays of the whole batch.

    Args:
        samples: As a transform returns them, with ``image_pixels`` (H, W, 3) and ``image_file`` (bytes,), both uint8.
    """

    def __init__(self, samples: Iterable[dict]) -> None:
        super().__init__(samples)
        self.packed = pack(self)
        pixels = unpack(self.packed['packed_pixels'], self.packed['packed_sizes'])
        files = self.packed['packed_files'].split(self.packed['packed_lengths'].tolist())
        self[:] = [{**sample, PIXELS: own, FILE: file} for sample, own, file in zip(self, pixels, files, strict=True)]


def pack(samples: Sequence[dict]) -> dict[str, Tensor]:
    """Images of samples in one array; in shared memory in a worker process, so nothing is copied on the way out.

    Returns:
        ``packed_pixels`` uint8 (sum of 3 H W,), row after row of RGB, ``packed_sizes`` int64 (B, 2): H and W;
        ``packed_files`` uint8 (sum of lengths,), contents of files that are not decoded yet, ``packed_lengths`` int64 (B,):
        of each image one of the two is there, the other of size 0.
    """
    images, files = ([sample[key] for sample in samples] for key in (PIXELS, FILE))
    return {
        'packed_pixels': _joined(images),
        'packed_sizes': torch.tensor([image.shape[:2] for image in images], dtype=torch.int64),
        'packed_files': _joined(files),
        'packed_lengths': torch.tensor([len(file) for file in files], dtype=torch.int64),
    }


def unpack(pixels: Tensor, sizes: Tensor) -> list[Tensor]:
    """The images (H, W, 3) of ``packed_pixels``, on whichever device that is, and ``packed_sizes`` (B, 2) on the CPU."""
    lengths = (sizes.prod(dim=1) * 3).tolist()
    parts = pixels.split(lengths)
    return [part.view(*size, 3) for part, size in zip(parts, sizes.tolist(), strict=True)]


def _joined(parts: Sequence[np.ndarray | Tensor]) -> Tensor:
    parts = [np.asarray(part).reshape(-1) for part in parts]
    lengths = [len(part) for part in parts]
    joined = _empty_bytes(sum(lengths))
    for target, part in zip(joined.split(lengths), parts, strict=True):
        target.numpy()[:] = part
    return joined


def _empty_bytes(count: int) -> Tensor:
    if get_worker_info() is None:
        return torch.empty(count, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(count)  # as torch's own collate function does
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (count,))
