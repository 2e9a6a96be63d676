"""Logistic regression against coefficients of another solver, and the conditions of its optimum."""

import numpy as np
import pytest
import torch
from patch_cases import of, published_split, random_split

from mmadclr.evaluation.dense.patch_logistic import STRENGTHS, evaluate_patch_logistic, fit_logistic
from mmadclr.evaluation.dense.patch_sets import joined, learnable, most_frequent


@pytest.fixture
def arrays(golden):
    return golden('dense_eval/capi_segmentation')


def near(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


def test_solutions_are_those_of_another_solver(arrays):
    split = published_split(arrays)
    train = learnable(split.train, split.ignore)
    targets = most_frequent(train.labels)
    for number, strength in enumerate(arrays['composed/logreg/grid_C'].tolist()):
        model = fit_logistic(train.features, targets, strength)
        assert model.converged
        assert model.labels.tolist() == arrays['composed/logreg/classes'].tolist()
        near(model.weight, arrays['composed/logreg/coef'][number])
        near(model.bias, arrays['composed/logreg/intercept'][number])
        expected = of(arrays, 'composed/logreg/holdout_prediction')[number]
        assert model.predict(split.holdout.features).tolist() == expected.flatten().tolist()


def test_choice_and_scores_are_those_of_another_solver(arrays):
    split = published_split(arrays)
    result = evaluate_patch_logistic(split, arrays['composed/logreg/grid_C'].tolist())
    np.testing.assert_allclose(
        [score for _, score in result.trials], arrays['composed/logreg/holdout_miou'], rtol=0, atol=1e-9
    )
    best = float(arrays['composed/logreg/best_C'])
    assert result.choice == {'C': pytest.approx(best)}
    for name in ('mIoU', 'accuracy'):
        expected = 100 * float(arrays[f'composed/logreg/test_{name.lower()}'])
        assert result.metrics[f'patch_logistic_{name}'] == pytest.approx(expected, abs=1e-7)
    train = learnable(joined(split.train, split.holdout), split.ignore)
    assert len(train.features) == arrays['composed/logreg/final_fit_rows']
    model = fit_logistic(train.features, most_frequent(train.labels), best)
    near(model.weight, arrays['composed/logreg/final_coef'])
    near(model.bias, arrays['composed/logreg/final_intercept'])
    assert model.predict(split.test.features).tolist() == arrays['composed/logreg/test_prediction'].flatten().tolist()


@pytest.mark.parametrize('strength', [1e-6, 1e-2, 10.0, 1e5])
def test_the_gradient_vanishes(strength):
    split = random_split()
    targets = most_frequent(split.train.labels)
    model = fit_logistic(split.train.features, targets, strength)
    shares = (split.train.features.double() @ model.weight.T + model.bias).softmax(dim=1)
    wrong = shares - torch.nn.functional.one_hot(targets, 3)
    gradient = strength * wrong.T @ split.train.features.double() + model.weight
    scale = max(strength * len(targets), 1e-9)
    assert gradient.abs().max() / scale < 1e-5
    assert wrong.sum(dim=0).abs().max() / len(targets) < 1e-5
    assert model.weight.sum(dim=0).abs().max() < 1e-6 * max(1, model.weight.abs().max())


def test_published_strengths():
    np.testing.assert_allclose(np.log10(STRENGTHS), np.linspace(-6, 5, 8))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match='there must be at least 2 labels'):
        fit_logistic(torch.randn(4, 2), torch.zeros(4).long(), 1.0)
    with pytest.raises(ValueError, match='C=0'):
        fit_logistic(torch.randn(4, 2), torch.arange(4), 0)
