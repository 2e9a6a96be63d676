"""Matches and PCK against the published codes' numbers, and closed forms."""

import numpy as np
import pytest
import torch

from mmadclr.evaluation.dense.spair import match_points, pair_errors, scaled_points, summarize_pairs


def of(arrays, key):
    return torch.from_numpy(np.asarray(arrays[key]))


@pytest.fixture
def arrays(golden):
    return golden('dense_eval/spair_correspondence')


def matched(arrays, **options):
    """Matches and errors of every pair."""
    config, features = arrays.config, of(arrays, 'features')
    assert features.shape == (config['pairs'], 2, config['dim'], config['grid'], config['grid'])
    found = []
    for number, (source, target) in enumerate(features):
        ours, theirs = (of(arrays, f'{name}_keypoints')[number] for name in ('source', 'target'))
        assert len(ours) == config['keypoints']
        matches = match_points(source, target, ours[:, :2] / config['image_size'], **options)
        visible = (ours[:, 2] > 0) & (theirs[:, 2] > 0)
        scale, category = float(arrays['threshold_scale'][number]), int(arrays['category'][number])
        errors = pair_errors(matches.positions, theirs[:, :2] / config['image_size'], visible, scale, category)
        found.append((matches, errors))
    return found


def test_matches_and_scores_are_those_of_the_published_codes(arrays):
    matches, errors = zip(*matched(arrays), strict=True)
    np.testing.assert_allclose(torch.cat([each.errors for each in errors]), arrays['error'], rtol=0, atol=1e-5)
    assert torch.cat([each.points for each in errors]).tolist() == arrays['keypoint_index'].tolist()
    pairs = np.repeat(np.arange(len(errors)), [len(each.errors) for each in errors])
    assert pairs.tolist() == arrays['pair_index'].tolist()
    assert torch.stack([each.cells for each in matches]).tolist() == arrays['predicted_cell'].tolist()
    np.testing.assert_allclose(matches[0].heatmaps, arrays['heatmap_pair_0'], rtol=0, atol=1e-5)
    alpha = arrays.config['threshold']
    found = summarize_pairs(errors, alpha)
    np.testing.assert_allclose([100 * x for x in found.categories.values()], arrays['category_recall'], rtol=0, atol=1e-4)
    assert found.metrics[f'spair_pck{alpha:g}_per_point'] == pytest.approx(float(arrays['composed/mean_recall']), abs=1e-4)
    assert found.metrics[f'spair_pck{alpha:g}_per_pair'] == pytest.approx(100 * float(arrays['per_pair/mean_pck']), abs=1e-4)
    np.testing.assert_allclose(found.pairs, arrays['per_pair/pck'], rtol=0, atol=1e-6)
    assert found.left_out == 0


def test_centers_of_cells_find_more(arrays):
    corner, center = (
        torch.cat([errors.errors for _, errors in matched(arrays, cell=cell)]).lt(arrays.config['threshold']).double().mean()
        for cell in ('corner', 'center')
    )
    assert center > corner


@pytest.mark.parametrize('grid', [(5, 7), (6, 3)])
def test_the_same_image_matches_itself_on_any_grid(grid):
    features = torch.randn(16, *grid)
    rows, columns = (axis.flatten() for axis in torch.meshgrid(*map(torch.arange, grid), indexing='ij'))
    centers = torch.stack(((columns + 0.5) / grid[1], (rows + 0.5) / grid[0]), dim=1)
    found = match_points(features, 3 * features, centers, cell='center', align_corners=False)
    torch.testing.assert_close(found.positions, centers)


def test_pairs_without_common_points_are_left_out_and_counted():
    positions, points = torch.tensor([[0.1, 0.1], [0.9, 0.9]]), torch.tensor([[0.1, 0.1], [0.5, 0.9]])
    seen = pair_errors(positions, points, torch.tensor([1, 1]), 0.5, 'cat')
    unseen = pair_errors(positions, points, torch.tensor([0, 0]), 0.5, 'dog')
    found = summarize_pairs([seen, unseen])
    assert (found.pairs, found.left_out, found.categories) == ([0.5, None], 1, {'cat': 0.5})
    assert found.metrics == {'spair_pck0.1_per_point': 50, 'spair_pck0.1_per_pair': 50}
    with pytest.raises(ValueError, match='none of the 1 pairs'):
        summarize_pairs([unseen])


def test_points_at_the_threshold_count_per_pair_only():
    errors = pair_errors(
        torch.tensor([[0.5, 0.5]]).double(), torch.tensor([[0.5, 0.25]]).double(), torch.tensor([1]), 1.0, 0
    )
    assert summarize_pairs([errors], 0.25).metrics == {'spair_pck0.25_per_point': 0, 'spair_pck0.25_per_pair': 100}


def test_points_are_truncated_as_published():
    points = torch.tensor([[3.0, 5.0]])
    assert scaled_points(points, 0.5).tolist() == [[1, 2]]
    assert scaled_points(points, 0.5, truncate=False).tolist() == [[1.5, 2.5]]


def test_what_cannot_be_matched_is_refused():
    features, points = torch.randn(4, 3, 3), torch.tensor([[0.5, 0.5]])
    with pytest.raises(ValueError, match='with the same D'):
        match_points(features, torch.randn(5, 3, 3), points)
    with pytest.raises(ValueError, match='0 to 1'):
        match_points(features, features, points * 64)
    with pytest.raises(ValueError, match="cell='middle'"):
        match_points(features, features, points, cell='middle')
    with pytest.raises(ValueError, match='not finite'):
        match_points(features * torch.nan, features, points)
    with pytest.raises(ValueError, match='scale=0'):
        pair_errors(points, points, torch.tensor([1]), 0, 0)
