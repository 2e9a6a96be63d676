"""Which patches of a batch are hidden, worked out on the host before a step asks for it.

Shape legend: B images, V = 2 global views, h * w patches a view, R hidden patches of the batch.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class PatchMasks(NamedTuple):
    """Masks of the global views, and what a loss of hidden patches needs to know about them.

    How many patches are hidden decides the shape of tensors, so a device would be waited for: rows and weights are found
    where the masks were drawn, on the CPU.

    Attributes:
        hidden: (B, V, h, w) bool, True where the student does not see the patch.
        rows: (R,) int64, the hidden patches among all V * B * h * w, view by view.
        weights: (R,) float64, which average over the hidden patches of a view, then over all V * B views; a view without
            hidden patches adds 0.
    """

    hidden: Tensor
    rows: Tensor
    weights: Tensor

    @classmethod
    def of(cls, hidden: Tensor) -> PatchMasks:
        """From masks (B, V, h, w) on the CPU.

        Raises:
            ValueError: They are on a device, where counting them would wait for it.
        """
        if hidden.device.type != 'cpu':
            raise ValueError(f'masks are on {hidden.device}: leave them on the CPU, where hidden patches are counted')
        by_view = hidden.transpose(0, 1).flatten(0, 1).flatten(1)  # (V * B, h * w)
        counts = by_view.sum(dim=1)
        weights = 1 / (counts.double().clamp(min=1) * len(by_view))
        return cls(hidden, by_view.flatten().nonzero()[:, 0], weights.repeat_interleave(counts))
