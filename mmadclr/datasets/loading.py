"""Collate function of the data loaders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor
from torch.utils.data import default_collate

from mmadclr.datasets.packed_images import FILE, PIXELS, PackedSamples
from mmadclr.datasets.shared_arrays import LentArrays, LentBatch
from mmadclr.registry import FUNCTIONS

MESSAGES = ('unreadable', 'fallbacks', 'lost')


class SampleList(list):
    """Samples whose views are slices of arrays for the full batch.

    Args:
        samples: As returned by a transform.
        arrays: By kind ('global', 'local', 'query') the crops of all samples, (B, number, size, size, 3), or ``images``
            (B, 3, size, size).
    """

    def __init__(self, samples: Iterable[dict], arrays: dict[str, Tensor]) -> None:
        super().__init__(samples)
        self.arrays = arrays


@FUNCTIONS.register_module()
def collate_samples(samples: Sequence[dict]) -> dict:
    """Stacks tensors and numbers; concatenates the lists ``unreadable``, ``fallbacks`` and ``lost``.

    Arrays of a ``SampleList`` are used as they are, without stacking: views (B, number, 3, size, size), stored
    channels-last. Full images are packed (:func:`mmadclr.datasets.packed_images.pack`).
    """
    if PIXELS in samples[0]:
        samples = samples if isinstance(samples, PackedSamples) else PackedSamples(samples)
        rest = [{k: v for k, v in sample.items() if k not in (PIXELS, FILE)} for sample in samples]
        batch = {**collate_samples(rest), **samples.packed}
        return LentBatch(batch, samples.block, {'packed_pixels': batch['packed_pixels']}) if samples.block else batch
    arrays = getattr(samples, 'arrays', {})
    lent = {_name(kind): array if kind == 'images' else array.permute(0, 1, 4, 2, 3) for kind, array in arrays.items()}
    messages = {kind: [text for sample in samples for text in sample.get(kind, ())] for kind in MESSAGES}
    rest = [{k: v for k, v in sample.items() if k not in messages and k not in lent} for sample in samples]
    batch = {**default_collate(rest), **lent, **messages}
    return LentBatch(batch, arrays.block, lent) if isinstance(arrays, LentArrays) else batch


def _name(kind: str) -> str:
    return kind if kind == 'images' else f'{kind}_views'
