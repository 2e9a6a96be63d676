"""k-NN of patches against the published code's numbers."""

import numpy as np
import pytest
import torch
from patch_cases import published_split, random_split

from mmadclr.evaluation.dense.patch_knn import evaluate_patch_knn, knn_labels, vote_pixels
from mmadclr.evaluation.dense.patch_sets import joined, learnable


def test_predictions_choice_and_scores_are_those_of_the_published_code(golden):
    arrays = golden('dense_eval/capi_segmentation')
    split = published_split(arrays)
    settings = list(zip(arrays['knn/grid_k'].tolist(), arrays['knn/grid_distance'].tolist(), strict=True))
    found = knn_labels(learnable(split.train, split.ignore), split.holdout.features, settings)
    for labels, expected in zip(found, arrays['knn/holdout_prediction'], strict=True):
        np.testing.assert_array_equal(labels, expected.reshape(labels.shape))
    best = (int(arrays['knn/best_k']), str(arrays['knn/best_distance']))
    (labels,) = knn_labels(learnable(joined(split.train, split.holdout), split.ignore), split.test.features, [best])
    np.testing.assert_array_equal(labels, arrays['knn/test_prediction'].reshape(labels.shape))
    result = evaluate_patch_knn(split, dict.fromkeys(k for k, _ in settings), dict.fromkeys(name for _, name in settings))
    assert [tuple(setting.values()) for setting, _ in result.trials] == settings
    np.testing.assert_allclose([score for _, score in result.trials], arrays['knn/holdout_miou'], rtol=0, atol=1e-9)
    assert tuple(result.choice.values()) == best
    for name in ('mIoU', 'accuracy'):
        assert result.metrics[f'patch_knn_{name}'] == pytest.approx(
            100 * float(arrays[f'knn/test_{name.lower()}']), abs=1e-7
        )


def test_pixels_vote_on_their_own_and_ties_go_to_the_smallest():
    labels = torch.tensor([[[3, 1, 9], [2, 1, 0], [3, 7, 9], [2, 7, 4]]])
    assert vote_pixels(labels).tolist() == [[2, 1, 9]]


def test_what_is_easy_is_found_and_what_was_not_learned_is_named():
    result = evaluate_patch_knn(random_split(), ks=(1, 3))
    assert result.metrics['patch_knn_mIoU'] > 90
    assert result.unlearned == ()
    split = random_split()
    kept = (split.train.labels != 2).all(dim=1)
    train = split.train._replace(features=split.train.features[kept], labels=split.train.labels[kept])
    held = (split.holdout.labels != 2).all(dim=1)
    holdout = split.holdout._replace(features=split.holdout.features[held], labels=split.holdout.labels[held])
    single = evaluate_patch_knn(split._replace(train=train, holdout=holdout), ks=(1,), metrics=('L2',))
    assert (single.unlearned, single.trials, single.choice) == ((2,), (), {'k': 1, 'distance': 'L2'})
    assert single.metrics['patch_knn_mIoU'] < 70


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match='none is held out'):
        evaluate_patch_knn(random_split(images=9))
    with pytest.raises(ValueError, match='k=1000 neighbors'):
        evaluate_patch_knn(random_split(), ks=(1000,))
