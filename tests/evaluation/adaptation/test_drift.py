"""Drift by closed forms, and against products of all pairs of rows."""

import math

import numpy as np
import pytest
import torch

from mmadclr.evaluation.adaptation.drift import linear_cka, row_cosines


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rotation(size, seed=3):
    return torch.linalg.qr(randn(size, size, seed=seed).double())[0]


def plain_by_pairs(first, second):
    """Kornblith et al., equations 2 and 4, from centered N x N kernels."""
    count = len(first)
    center = np.eye(count) - 1 / count
    kernels = [center @ (x.double().numpy() @ x.double().numpy().T) @ center for x in (first, second)]
    return np.vdot(*kernels) / np.sqrt(np.vdot(kernels[0], kernels[0]) * np.vdot(kernels[1], kernels[1]))


def unbiased_by_pairs(first, second):
    """Song et al., equation 5, from N x N kernels without their diagonals."""

    def hsic(k, other):
        n, ones = len(k), np.ones(len(k))
        sums = (ones @ k @ ones) * (ones @ other @ ones) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (ones @ k @ other @ ones)
        return (np.trace(k @ other) + sums) / (n * (n - 3))

    kernels = []
    for rows in (first, second):
        kernel = rows.double().numpy() @ rows.double().numpy().T
        np.fill_diagonal(kernel, 0)
        kernels.append(kernel)
    k, other = kernels
    return hsic(k, other) / np.sqrt(hsic(k, k) * hsic(other, other))


@pytest.mark.parametrize('shapes', [(50, 6, 9), (12, 30, 20)])
def test_cka_is_that_of_all_pairs(shapes):
    count, first, second = shapes
    x = randn(count, first) + 2
    y = x @ randn(first, second, seed=1) + 3 * randn(count, second, seed=2)
    assert linear_cka(x, y, debiased=False) == pytest.approx(plain_by_pairs(x, y))
    assert linear_cka(x, y) == pytest.approx(unbiased_by_pairs(x, y))


@pytest.mark.parametrize('debiased', [True, False])
def test_cka_ignores_rotation_scale_and_shift(debiased):
    x = randn(40, 7).double()
    assert linear_cka(x, x, debiased) == pytest.approx(1)
    assert linear_cka(x, 5 * x @ rotation(7) + 100, debiased) == pytest.approx(1)
    assert linear_cka(x, -x, debiased) == pytest.approx(1)
    stretched = x * torch.linspace(0.1, 5, 7)
    assert linear_cka(x, stretched, debiased) < 0.95


def test_only_the_debiased_one_is_zero_for_independent_features_of_many_channels():
    x, y = randn(100, 400), randn(100, 400, seed=1)
    assert linear_cka(x, y, debiased=False) > 0.7
    assert linear_cka(x, y) == pytest.approx(0, abs=0.05)


def test_large_means_do_not_cost_precision():
    x = randn(40, 7)
    assert linear_cka(x, x.double() @ rotation(7) + 1e6) == pytest.approx(1)


@pytest.mark.parametrize('debiased', [True, False])
def test_cka_of_constant_features_is_undefined(debiased):
    assert math.isnan(linear_cka(randn(10, 3), torch.full((10, 3), 0.1), debiased))


def test_cka_of_other_or_too_few_rows_is_refused():
    with pytest.raises(ValueError, match='CKA of 5 and 6 rows: both must have the same rows'):
        linear_cka(randn(5, 2), randn(6, 2))
    with pytest.raises(ValueError, match='at least 4'):
        linear_cka(randn(3, 2), randn(3, 2))


def test_cosines_by_hand():
    first = torch.tensor([[1.0, 0], [1, 0], [2, 0]])
    second = torch.tensor([[3.0, 0], [0, 1], [-1, 0]])
    assert row_cosines(first, second).tolist() == pytest.approx([1, 0, -1])
    x = randn(30, 5).double()
    quarter = torch.tensor([[0.0, 1], [-1, 0]]).double()
    assert row_cosines(x[:, :2], x[:, :2] @ quarter).mean() == pytest.approx(0, abs=1e-12)  # where CKA is 1
    with pytest.raises(ValueError, match='shapes must be equal'):
        row_cosines(first, randn(3, 4))
