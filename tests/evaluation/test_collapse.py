"""Statistics of collapse against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from mmadclr.evaluation import collapse


def one_hot(columns: list[int], width: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(columns), width).double()


def test_uniform_rows():
    probs = torch.full((5, 8), 1 / 8, dtype=torch.double)
    assert collapse.relative_entropy(probs).item() == pytest.approx(1)
    assert collapse.prototypes_in_use(probs).item() == pytest.approx(8)
    assert collapse.top_share(probs).item() == pytest.approx(1 / 8)


def test_one_hot_rows():
    probs = one_hot([3] * 6, 8)
    assert collapse.relative_entropy(probs).item() == 0
    assert collapse.prototypes_in_use(probs).item() == pytest.approx(1)
    assert collapse.top_share(probs).item() == 1


def test_sharp_rows_that_differ():
    """Each row is sure, two prototypes are used alike: entropy 0, 2 in use."""
    probs = one_hot([1, 6, 1, 6], 8)
    assert collapse.relative_entropy(probs).item() == 0
    assert collapse.prototypes_in_use(probs).item() == pytest.approx(2)
    assert collapse.top_share(probs).item() == 0.5


def test_entropy_of_rows_half_of_the_prototypes_take():
    probs = one_hot([0, 1], 4).sum(0, keepdim=True) / 2
    assert collapse.relative_entropy(probs).item() == pytest.approx(math.log(2) / math.log(4))


def test_divergence_of_two_distributions():
    p, q = torch.tensor([[0.75, 0.25], [0.5, 0.5]]).double(), torch.tensor([[0.5, 0.5], [0.5, 0.5]]).double()
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert collapse.kl_divergence(p, q.log()).item() == pytest.approx(expected)
    assert collapse.kl_divergence(q, q.log()).item() == 0
    assert collapse.kl_divergence(one_hot([0], 2), torch.tensor([[0.5, 0.5]]).double().log()).item() == pytest.approx(
        math.log(2)
    )


def test_spread_of_features():
    axes = torch.eye(16, dtype=torch.double)
    spheres = torch.cat((axes, -axes))
    assert collapse.feature_spread(7 * spheres).item() == pytest.approx(1)  # every channel: mean 0, mean square 1 / 16
    assert collapse.feature_spread(torch.ones(5, 16) * torch.arange(1.0, 6)[:, None]).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('rank', [1, 3, 8])
def test_rank_of_features_with_equal_singular_values(rank):
    q, _ = torch.linalg.qr(torch.randn(20, rank, dtype=torch.double))
    p, _ = torch.linalg.qr(torch.randn(8, rank, dtype=torch.double))
    assert collapse.rank_me(3 * q @ p.T).item() == pytest.approx(rank)


def test_rank_of_unequal_singular_values():
    """Shares .75 and .25."""
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert collapse.rank_me(torch.diag(torch.tensor([3.0, 1.0])).double()).item() == pytest.approx(expected)


def test_rank_of_broken_features_is_not_a_number():
    assert collapse.rank_me(torch.tensor([[1.0, math.inf], [0.0, 1.0]])).isnan()


def test_cosine_is_the_mean_over_rows():
    a = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    b = torch.tensor([[3.0, 0.0], [1.0, 0.0]])
    assert collapse.cosine(a, b).item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ('rows', 'wanted', 'got'), [(10, 4, [0, 3, 6, 9]), (8, 4, [0, 2, 4, 6]), (3, 4, [0, 1, 2]), (0, 4, [])]
)
def test_rows_are_evenly_spaced(rows, wanted, got):
    assert collapse.evenly(torch.arange(rows)[:, None], wanted)[:, 0].tolist() == got
