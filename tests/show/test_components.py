"""Colors of patches: components against numpy's SVD, thresholds by search, signs that do not depend on chance."""

import numpy as np
import pytest
import torch

from mmadclr.show.components import best_split, foreground, patch_colors, principal_components


def rows(n=200, d=12, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n, d)) * np.linspace(3, 0.3, d) + rng.normal(size=d)).float()


def test_components_are_those_of_numpy():
    data = rows()
    found = principal_components(data, 4)
    centered = data.double().numpy() - data.double().numpy().mean(axis=0)
    _, singular, axes = np.linalg.svd(centered, full_matrices=False)
    np.testing.assert_allclose(np.abs((found.axes.numpy() * axes[:4]).sum(axis=1)), 1, atol=1e-9)
    np.testing.assert_allclose(found.variances, singular[:4] ** 2 / len(data), rtol=1e-9)
    np.testing.assert_allclose(found.scores(data).abs(), np.abs(centered @ axes[:4].T), atol=1e-9)


def test_signs_do_not_depend_on_the_order_of_rows():
    data = rows()
    for other in (data.flip(0), data[torch.randperm(len(data), generator=torch.Generator().manual_seed(1))]):
        torch.testing.assert_close(principal_components(other, 3).axes, principal_components(data, 3).axes)
    assert (
        principal_components(data, 3).axes.gather(1, principal_components(data, 3).axes.abs().argmax(1)[:, None]) > 0
    ).all()


def test_blocks_of_rows_do_not_change_components(monkeypatch):
    whole = principal_components(rows(), 3)
    monkeypatch.setattr('mmadclr.show.components.BLOCK', 7)
    for one, other in zip(whole, principal_components(rows(), 3), strict=True):
        torch.testing.assert_close(one, other)


def test_the_split_has_the_largest_variance_between_both_sides():
    values = torch.cat((torch.randn(30, generator=torch.Generator().manual_seed(0)), torch.tensor([4.0, 4.5, 5.0, 5.0])))
    threshold = best_split(values)

    def between(cut):
        low, high = values[values <= cut], values[values > cut]
        return len(low) * len(high) * float(low.mean() - high.mean()) ** 2 if len(low) and len(high) else -1

    assert between(threshold) == pytest.approx(max(between(cut) for cut in values.tolist()))


def scene(seed=0):
    """Two pictures whose objects have features of one kind, their surroundings of another; with a slope in the object."""
    generator = torch.Generator().manual_seed(seed)
    grids, masks = [], []
    for height, width in ((8, 10), (6, 7)):
        mask = torch.zeros(height, width, dtype=torch.bool)
        mask[2:-2, 2:-2] = True
        grid = 0.1 * torch.randn(height, width, 6, generator=generator)
        grid[..., 0] += torch.where(mask, 5.0, -5.0)
        grid[..., 1] += torch.where(mask, torch.linspace(-2, 2, width), 0)
        grid[..., 2] += torch.where(mask, torch.linspace(-1, 1, height)[:, None], 0)
        grids.append(grid)
        masks.append(mask)
    return grids, masks


@pytest.mark.parametrize('sign', [1, -1])
def test_the_foreground_is_the_side_that_is_less_at_borders(sign):
    grids, masks = scene()
    found = foreground([sign * grid for grid in grids])
    for one, other in zip(found, masks, strict=True):
        assert torch.equal(one, other)


def between_quantiles(scores):
    ordered = np.sort(scores)
    low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.01, 0.99))
    return np.clip((scores - low) / (high - low), 0, 1)


def test_colors_are_joint_components_of_the_foreground():
    grids, masks = scene()
    colors = patch_colors(grids)
    inside = torch.cat([grid[mask] for grid, mask in zip(grids, masks, strict=True)]).double().numpy()
    _, _, axes = np.linalg.svd(inside - inside.mean(axis=0), full_matrices=False)
    scores = (inside - inside.mean(axis=0)) @ axes[:3].T
    found = torch.cat([color[mask] for color, mask in zip(colors, masks, strict=True)]).numpy()
    for channel in range(3):
        choices = [between_quantiles(sign * scores[:, channel]) for sign in (1, -1)]
        assert min(np.abs(choice - found[:, channel]).max() for choice in choices) < 1e-6
    for color, mask in zip(colors, masks, strict=True):
        assert torch.equal(color[..., 0].isnan(), ~mask)


def test_patches_that_do_not_vary_are_refused():
    with pytest.raises(ValueError, match='number of patches 12: they do not vary in 1 directions; raise the size'):
        patch_colors([torch.ones(3, 4, 6)])
    with pytest.raises(ValueError, match='number of patches 2: they do not vary in 3 directions'):
        principal_components(torch.randn(2, 6), 3)
