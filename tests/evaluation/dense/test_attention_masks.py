"""Masks of attention against the published code's numbers and against sums by hand."""

import numpy as np
import pytest
import torch

from mmadclr.evaluation.dense.attention_masks import attention_jaccard, mass_mask, merged_mask, object_labels


@pytest.fixture
def arrays(golden):
    return golden('dense_eval/dino_attention_jaccard')


def test_scores_are_those_of_the_published_code(arrays):
    config, attention, masks = arrays.config, torch.from_numpy(arrays['attention']), torch.from_numpy(arrays['masks'])
    side = config['grid']
    assert attention.shape == (config['images'], config['heads'], side**2 + 1)
    assert masks.shape[1] == side * config['patch_size']
    found = attention_jaccard(attention[..., 1:], masks, (side, side), mass=config['mass'])
    np.testing.assert_allclose(found.best_head.nan_to_num(0), arrays['best_head_jaccard'], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.merged, arrays['merged_jaccard'], rtol=0, atol=1e-5)
    for name in ('best_head', 'merged'):
        assert found.metrics[f'attention_jaccard_{name}'] == pytest.approx(100 * float(arrays[f'{name}_mean']), abs=1e-3)
    assert found.without_objects == int((arrays['best_head_jaccard'] == 0).sum())


def test_quirks_move_the_number(arrays):
    attention, masks = torch.from_numpy(arrays['attention'])[..., 1:], torch.from_numpy(arrays['masks'])
    grid = (arrays.config['grid'],) * 2
    published = attention_jaccard(attention, masks, grid).metrics['attention_jaccard_best_head']
    skipped = attention_jaccard(attention, masks, grid, without_objects='skip').metrics['attention_jaccard_best_head']
    labels = attention_jaccard(attention, masks, grid, objects='labels').metrics['attention_jaccard_best_head']
    assert skipped > published
    assert abs(labels - published) > 0.01


def test_the_strongest_patches_hold_the_mass():
    attention = torch.tensor([[0.1, 0.5, 0.05, 0.35], [2.0, 2.0, 2.0, 2.0]])
    assert mass_mask(attention, 0.6).tolist() == [[False, True, False, True], [False, True, True, True]]
    assert mass_mask(attention, 0.4).tolist()[0] == [False, True, False, False]


def test_small_components_are_removed_from_merged_masks():
    attention = torch.full((2, 6 * 9), 1e-6)
    attention[:, [9, 10, 18, 19]] = 1.0  # four patches
    alone = attention.clone()
    alone[:, 53] = 1.0  # one, in another corner
    kept = merged_mask(alone, (6, 9), 0.9)
    assert kept[1:3, :2].all()
    assert not kept[4:, 7:].any()


def test_objects_by_either_reading():
    mask = torch.tensor([[0, 3, 7], [7, 7, 3]])  # no void
    assert object_labels(mask) == [3]
    assert object_labels(mask, 'labels') == [3, 7]


def test_images_without_objects_count_zero_or_are_left_out():
    attention = torch.rand(2, 1, 16) + 0.1
    masks = torch.zeros(2, 4, 4).long()
    masks[1, :2, :2], masks[1, 3, 3] = 5, 255
    half = attention_jaccard(attention, masks, (4, 4))
    whole = attention_jaccard(attention, masks, (4, 4), without_objects='skip')
    assert half.without_objects == whole.without_objects == 1
    assert whole.metrics['attention_jaccard_best_head'] == pytest.approx(2 * half.metrics['attention_jaccard_best_head'])
    with pytest.raises(ValueError, match='no image has an object'):
        attention_jaccard(attention[:1], masks[:1], (4, 4), without_objects='skip')


def test_other_sizes_are_refused():
    masks = torch.zeros(1, 4, 4).long()
    with pytest.raises(ValueError, match=r'without \[CLS\]'):
        attention_jaccard(torch.rand(1, 2, 5), masks, (2, 2))
    with pytest.raises(ValueError, match='multiples of the grid'):
        attention_jaccard(torch.rand(1, 2, 9), masks, (3, 3))
    with pytest.raises(ValueError, match='of the same images'):
        attention_jaccard(torch.rand(2, 2, 4), masks, (2, 2))
    with pytest.raises(ValueError, match='positive somewhere'):
        attention_jaccard(torch.zeros(1, 2, 4), masks, (2, 2))
    with pytest.raises(ValueError, match='too small to blur'):
        attention_jaccard(torch.rand(1, 2, 4), masks, (2, 2))
    with pytest.raises(ValueError, match='mass=1.5'):
        mass_mask(torch.rand(4), 1.5)
