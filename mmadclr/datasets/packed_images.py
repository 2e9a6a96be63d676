"""Full images of a batch in one array, for cropping on the device.

Shape legend: B images of a batch, each with its own size of H x W pixels.

A worker decodes (or, for decoding on the device, only reads) images and returns one concatenated byte array of all images,
with their sizes and without padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from mmadclr.datasets.decoding import Scratch
from mmadclr.datasets.shared_arrays import LentArrays, SharedArrays

PIXELS, FILE = 'image_pixels', 'image_file'  # keys of a sample; both are packed by ``collate_samples``


class Arena(Scratch):
    """Memory into which the images of a batch are decoded consecutively, without a final copy.

    Its size is that of the largest batch so far. When full, contents move to a larger block. In
    a worker, blocks are reused once they are no longer referenced (:mod:`mmadclr.datasets.shared_arrays`).
    """

    def __init__(self) -> None:
        super().__init__()
        self._arrays, self._lent = SharedArrays(), _nothing()
        self._used = self._largest = 0

    def begin(self) -> None:
        """Starts a new batch; the previous block is not reused until it is free."""
        self._bytes, self._lent = np.empty(0, dtype=np.uint8), _nothing()
        self._replace(self._largest)
        self._used = 0

    def get(self, size: int) -> np.ndarray:
        """(size,) uint8 after all images kept so far."""
        if self._used + size > len(self._bytes):
            kept = self._bytes[: self._used]
            self._replace(max(2 * len(self._bytes), self._used + size))
            self._bytes[: self._used] = kept
        return self._bytes[self._used : self._used + size]

    def keep(self, pixels: np.ndarray) -> np.ndarray:
        """Adds an array (H, W, 3) as the next image of the batch; copies it unless it is in the memory from ``get``."""
        own = self.get(pixels.size).reshape(pixels.shape)
        if own.ctypes.data != pixels.ctypes.data:
            own[:] = pixels
        self._used += pixels.size
        return own

    def kept(self) -> dict[str, Tensor]:
        """``pixels`` (bytes,) uint8, all images of the batch; with their block, if it is reusable."""
        self._largest = max(self._largest, self._used)
        pixels = {'pixels': self._lent['pixels'][: self._used]}
        return LentArrays(pixels, self._lent.block) if isinstance(self._lent, LentArrays) else pixels

    def _replace(self, size: int) -> None:
        self._lent = self._arrays.take({'pixels': (size,)}, shared=get_worker_info() is not None)
        self._bytes = self._lent['pixels'].numpy()

    def __getstate__(self) -> dict:
        return super().__getstate__() | dict(_arrays=SharedArrays(), _lent=_nothing(), _used=0, _largest=0)


def _nothing() -> dict[str, Tensor]:
    return {'pixels': torch.empty(0, dtype=torch.uint8)}


class PackedSamples(list):
    """Samples whose images are slices of arrays for the full batch.

    Args:
        samples: As returned by a transform, with ``image_pixels`` (H, W, 3) and ``image_file`` (bytes,), both uint8.
        kept: ``pixels`` of all samples concatenated, if available; see ``Arena.kept``.
    """

    def __init__(self, samples: Iterable[dict], kept: dict[str, Tensor] | None = None) -> None:
        super().__init__(samples)
        self.packed = pack(self, None if kept is None else kept['pixels'])
        self.block = getattr(kept, 'block', None)
        images = unpack(self.packed['packed_pixels'], self.packed['packed_sizes'])
        self[:] = [{**sample, PIXELS: image} for sample, image in zip(self, images, strict=True)]


def pack(samples: Sequence[dict], pixels: Tensor | None = None) -> dict[str, Tensor]:
    """Concatenates the images of samples; in a worker process directly in shared memory, which avoids a copy.

    Returns:
        ``packed_pixels`` uint8 (sum of 3 H W,), RGB in raster order, ``packed_sizes`` int64 (B, 2): H and W;
        ``packed_files`` uint8 (sum of lengths,), contents of undecoded files, ``packed_lengths`` int64 (B,):
        for each image one of the two is present and the other has size 0.
    """
    images, files = ([sample[key] for sample in samples] for key in (PIXELS, FILE))
    return {
        'packed_pixels': _joined(images) if pixels is None else pixels,
        'packed_sizes': torch.tensor([image.shape[:2] for image in images], dtype=torch.int64),
        'packed_files': _joined(files),
        'packed_lengths': torch.tensor([len(file) for file in files], dtype=torch.int64),
    }


def unpack(pixels: Tensor, sizes: Tensor) -> list[Tensor]:
    """The images (H, W, 3) in ``packed_pixels``, on any device, given ``packed_sizes`` (B, 2) on the CPU."""
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
    storage = torch.UntypedStorage._new_shared(count)  # as in torch's collate function
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (count,), (1,))
