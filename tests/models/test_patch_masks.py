"""Hidden patches: where they are and what they weigh."""

import pytest
import torch

from mmadclr.models.patch_masks import PatchMasks


def test_rows_and_weights_average_over_patches_then_over_views():
    hidden = torch.tensor([[[[1, 0], [1, 0]], [[0, 0], [0, 0]]], [[[0, 0], [0, 1]], [[1, 1], [1, 1]]]], dtype=torch.bool)
    masks = PatchMasks.of(hidden)  # two images of two views; rows go view by view
    assert masks.rows.tolist() == [0, 2, 7, 12, 13, 14, 15]
    assert masks.weights.tolist() == pytest.approx([1 / 8, 1 / 8, 1 / 4, *[1 / 16] * 4], abs=1e-15)
    assert torch.equal(masks.hidden, hidden)


def test_rows_and_weights_equal_a_loop():
    hidden = torch.rand(3, 2, 5, 4) < 0.4
    masks = PatchMasks.of(hidden)
    values = torch.randn(2, 3, 20, dtype=torch.float64)  # of the patches, view by view
    terms = [values[v, b][hidden[b, v].flatten()].mean() for v in range(2) for b in range(3) if hidden[b, v].any()]
    got = (values.flatten()[masks.rows] * masks.weights).sum()
    torch.testing.assert_close(got, sum(terms) / 6, rtol=0, atol=1e-14)


def test_masks_on_a_device_are_refused():
    with pytest.raises(ValueError, match='masks are on meta: keep them on the CPU'):
        PatchMasks.of(torch.zeros(1, 2, 4, 4, dtype=torch.bool, device='meta'))
