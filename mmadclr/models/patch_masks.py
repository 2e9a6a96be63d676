"""Masked patches of a batch, indexed on the host in advance.

Shape legend: B images, V = 2 global views, h * w patches per view, R masked patches of the batch.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class PatchMasks(NamedTuple):
    """Masks of the global views, with the indices and weights that a loss on masked patches needs.

    The number of masked patches determines tensor shapes, which would require a device synchronization: rows and weights are
    therefore computed where the masks were drawn, on the CPU.

    Attributes:
        hidden: (B, V, h, w) bool, True where the patch is masked for the student.
        rows: (R,) int64, indices of the masked patches among all V * B * h * w, view by view.
        weights: (R,) float64, for averaging over the masked patches of a view, then over all V * B views; views without
            masked patches contribute 0.
    """

    hidden: Tensor
    rows: Tensor
    weights: Tensor

    @classmethod
    def of(cls, hidden: Tensor) -> PatchMasks:
        """From masks (B, V, h, w) on the CPU.

        Raises:
            ValueError: They are on a device, where counting them would synchronize.
        """
        if hidden.device.type != 'cpu':
            raise ValueError(f'masks are on {hidden.device}: keep them on the CPU, where masked patches are counted')
        by_view = hidden.transpose(0, 1).flatten(0, 1).flatten(1)  # (V * B, h * w)
        counts = by_view.sum(dim=1)
        weights = 1 / (counts.double().clamp(min=1) * len(by_view))
        return cls(hidden, by_view.flatten().nonzero()[:, 0], weights.repeat_interleave(counts))
