"""Splits, standardization and labels of patches against the published code's numbers and plain forms."""

import numpy as np
import pytest
import torch
from patch_cases import published_split, random_split

from mmadclr.evaluation.dense.patch_sets import (
    joined,
    learnable,
    most_frequent,
    patch_pixels,
    published_permutation,
    score_labels,
    split_patches,
    standardization,
)  # fmt: skip


def test_patches_are_split_and_standardized_as_published(golden):
    arrays = golden('dense_eval/capi_segmentation')
    split = published_split(arrays)
    assert split.holdout.images == arrays['num_holdout']
    for name, part in (('train', split.train), ('val', split.holdout), ('test', split.test)):
        np.testing.assert_allclose(part.features, arrays[f'standardised/{name}'], rtol=0, atol=1e-5)
    np.testing.assert_allclose(split.center, arrays['scaler/mean'], rtol=0, atol=1e-6)
    np.testing.assert_allclose(split.spread, arrays['scaler/scale'], rtol=0, atol=1e-6)
    assert len(learnable(split.train, split.ignore).features) == arrays['composed/logreg/fit_rows']


def test_pixels_of_patches_row_by_row():
    masks = torch.arange(24).view(1, 4, 6)
    assert patch_pixels(masks, (2, 2))[0].tolist()[:2] == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]
    assert patch_pixels(masks, (2, 3))[0, 3].tolist() == [12, 13, 18, 19]


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int64])
def test_most_frequent_labels_and_ties(monkeypatch, dtype):
    monkeypatch.setattr('mmadclr.evaluation.dense.patch_sets.ROWS', 100)
    labels = torch.randint(0, 5, (1000, 8)).to(dtype)
    expected = [min(set(row), key=lambda label: (-row.count(label), label)) for row in labels.tolist()]
    assert most_frequent(labels).tolist() == expected


def test_constant_channels_are_not_divided_by_zero():
    features = torch.randn(50, 3)
    features[:, 1], features[:, 2] = 0.1, 0.0
    center, spread = standardization(features)
    assert spread[1:].tolist() == [1, 1]
    assert spread[0].item() == pytest.approx(features[:, 0].double().std(correction=0).item())
    assert center[1].item() == pytest.approx(0.1)


def test_the_published_order_is_numpys():
    assert published_permutation(7, 3).tolist() == np.random.RandomState(3).permutation(7).tolist()


def test_predicted_ignored_labels_are_wrong_and_seen():
    split = random_split(ignore=(255,))
    prediction = split.test.labels.clone()
    prediction[0] = 255
    counts, labels = score_labels(prediction, split.test, split.ignore)
    assert labels == (0, 1, 2, 255)
    assert counts.confusion[:, 3].sum() == prediction.shape[1]
    assert counts.confusions.shape == (4, 4, 4)


def test_bad_input_is_refused():
    features, masks = torch.randn(12, 4, 3), torch.zeros(12, 4, 4).long()
    with pytest.raises(ValueError, match='each of the 12 training images exactly once'):
        split_patches((features, masks), (features, masks), (2, 2), torch.zeros(12))
    with pytest.raises(ValueError, match='same width and size'):
        split_patches((features, masks), (features[..., :2], masks), (2, 2))
    with pytest.raises(ValueError, match='feature 0 of 48 is not finite'):
        split_patches((features * torch.nan, masks), (features, masks), (2, 2))
    with pytest.raises(ValueError, match='multiples of the grid'):
        split_patches((features, masks[:, :3]), (features, masks[:, :3]), (2, 2))
    with pytest.raises(ValueError, match='no patch of the training images'):
        learnable(split_patches((features, masks), (features, masks), (2, 2)).train, (0,))


def test_both_parts_of_training_patches_are_one_tensor():
    split = random_split()
    both = joined(split.train, split.holdout)
    assert both.images == 12
    for whole, first, second in zip(both[:2], split.train[:2], split.holdout[:2], strict=True):
        assert torch.equal(whole, torch.cat((first, second)))
        assert whole.data_ptr() == first.data_ptr()
    turned = joined(split.holdout, split.train)
    assert torch.equal(turned.features, torch.cat((split.holdout.features, split.train.features)))
    assert turned.features.data_ptr() != both.features.data_ptr()


def test_all_patches_are_kept_without_a_copy():
    split = random_split()
    assert learnable(split.train, (255,)).features.data_ptr() == split.train.features.data_ptr()
