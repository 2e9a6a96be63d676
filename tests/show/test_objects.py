"""Objects: TokenCut on cells of a bounded number."""

import math

import pytest
import torch

from mmadclr.evaluation.dense.discovery import tokencut_box
from mmadclr.show.objects import cells, find_object


@pytest.mark.parametrize('grid', [(28, 28), (32, 32), (33, 32), (64, 48), (128, 96), (1, 3000), (7, 500)])
def test_cells_are_as_fine_as_the_limit_allows(grid):
    found = cells(grid, 1024)
    assert found[0] * found[1] <= 1024
    factor = next(f for f in range(1, 4000) if math.ceil(grid[0] / f) * math.ceil(grid[1] / f) <= 1024)
    assert found == (math.ceil(grid[0] / factor), math.ceil(grid[1] / factor))


def scene(height, width):
    keys = torch.tensor([1.0, 0, 0]) + 0.05 * torch.randn(height, width, 3, generator=torch.Generator().manual_seed(0))
    keys[height // 4 : height // 2, width // 2 : 3 * width // 4] += torch.tensor([-1.0, 1, 0])
    return keys


def test_a_small_picture_is_cut_patch_by_patch():
    keys = scene(16, 16)
    found, expected = find_object(keys), tokencut_box(keys.flatten(0, 1), (16, 16))
    assert torch.equal(found.mask, expected.mask)
    assert found.mask.nonzero().tolist() == [[i, j] for i in range(4, 8) for j in range(8, 12)]
    assert found.box == (0.5, 0.25, 0.75, 0.5)


def test_a_large_picture_is_cut_in_cells():
    found = find_object(scene(64, 32), limit=512)
    assert found.mask.shape == (32, 16)
    assert found.box == (0.5, 0.25, 0.75, 0.5)
