"""Intervals against normal theory and scipy, p values under no difference and under one, and scores of drawn units."""

from functools import partial

import pytest
import torch

from mmadclr.evaluation.dense.bootstrap import (
    bootstrap_interval,
    bootstrap_scores,
    category_score,
    compare_models,
    difference_of_scores,
    iou_score,
    mean_score,
    ratio_score,
)  # fmt: skip
from mmadclr.evaluation.dense.segmentation_scores import mean_iou


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_intervals_of_means_are_those_of_normal_theory():
    values = torch.randn(400, generator=seeded())
    found = bootstrap_interval(mean_score(values), 400, seeded(1), draws=2000, level=0.9)
    half = 1.645 * values.std() / 20
    assert found.value == pytest.approx(values.mean().item(), abs=1e-6)
    assert found.high - found.value == pytest.approx(half.item(), rel=0.1)
    assert found.value - found.low == pytest.approx(half.item(), rel=0.1)


def test_intervals_agree_with_scipy():
    stats = pytest.importorskip('scipy.stats')
    values = torch.rand(60, generator=seeded()) ** 3
    found = bootstrap_interval(mean_score(values), 60, seeded(1), draws=4000)
    expected = stats.bootstrap(
        (values.numpy(),), lambda x, axis: x.mean(axis=axis), n_resamples=4000, method='percentile', rng=1
    )
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.01)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.01)


def test_the_same_generator_gives_the_same_interval():
    statistic = mean_score(torch.randn(30))
    assert bootstrap_interval(statistic, 30, seeded(3)) == bootstrap_interval(statistic, 30, seeded(3))
    assert bootstrap_interval(statistic, 30, seeded(3)) != bootstrap_interval(statistic, 30, seeded(4))


def test_ious_of_draws_are_those_of_summed_counts():
    confusions = torch.randint(0, 9, (12, 3, 3), dtype=torch.int32)
    rows = torch.tensor([0, 0, 5, 11, 5, 0])
    assert iou_score(confusions, 'seen')(rows) == mean_iou(confusions[rows].sum(dim=0), 'seen')
    swapped = confusions[:, :, [1, 0, 2]] + 100 * torch.eye(3, dtype=torch.int32)[[1, 0, 2]]
    pytest.importorskip('scipy')
    assert iou_score(swapped, matching='hungarian')(rows) > 0.8 > iou_score(swapped)(rows)


def test_ratios_and_categories_by_hand():
    sums, counts = torch.tensor([1.0, 4.0, 0.0, 3.0]), torch.tensor([2, 4, 0, 6])
    rows = torch.tensor([0, 1, 2, 3])
    assert ratio_score(sums, counts)(rows) == pytest.approx(8 / 12)
    score = category_score(sums, counts, ['cat', 'cat', 'dog', 'cow'])
    assert score(rows) == pytest.approx((5 / 6 + 3 / 6) / 2)  # no point of a dog
    assert score(torch.tensor([0, 0])) == pytest.approx(0.5)


def test_draws_without_a_score_are_counted():
    values = torch.tensor([torch.nan] * 3 + [1.0])
    found = bootstrap_interval(mean_score(values), 4, seeded(), draws=500)
    assert found[:3] == (1, 1, 1)
    assert found.undefined == pytest.approx(500 * 0.75**4, abs=35)


def test_differences_larger_than_chance_are_found_and_others_are_not():
    shared = torch.randn(80, generator=seeded())
    noise = 0.1 * torch.randn(2, 80, generator=seeded(1))
    better = compare_models(mean_score, [shared + 0.1 + noise[0]], [shared + noise[1]], seeded(2), draws=500)
    assert better.significant
    assert better.interval.low > 0
    assert better.p_value == pytest.approx(1 / 501)
    # Without pairs the spread of the images would hide it.
    assert bootstrap_interval(mean_score(shared), 80, seeded(3)).high - shared.mean() > 0.1


def test_samples_of_two_models_are_paired_by_the_seed():
    shared = torch.randn(80, generator=seeded())
    first, second = (shared + shift + 0.1 * torch.randn(80, generator=seeded(place)) for place, shift in ((1, 0.1), (2, 0)))
    samples = [bootstrap_scores(mean_score(values), 80, seeded(3), 500) for values in (first, second)]
    found = difference_of_scores((first - second).mean().item(), *samples)
    interval = bootstrap_interval(mean_score(first - second), 80, seeded(3), 500)
    assert found.interval[:3] == pytest.approx(interval[:3], abs=1e-6)
    assert found.significant
    assert found.p_value == pytest.approx(2 / 501)
    other = bootstrap_scores(mean_score(second), 80, seeded(4), 500)  # not paired: their spread hides the difference
    assert not difference_of_scores(0.1, samples[0], other).significant
    assert difference_of_scores(0.0, samples[0], samples[0]).p_value == 1
    with pytest.raises(ValueError, match='500 and 20 samples must be the same'):
        difference_of_scores(0.0, samples[0], other[:20])


def test_p_values_of_samples_of_equal_models_are_uniform():
    rejected = 0
    for seed in range(100):
        values = torch.randn(2, 30, generator=seeded(seed))
        first, second = (bootstrap_scores(mean_score(each), 30, seeded(1000 + seed), 200) for each in values)
        rejected += difference_of_scores((values[0] - values[1]).mean().item(), first, second, level=0.8).significant
    assert 8 <= rejected <= 34  # 20 expected


def test_p_values_of_equal_models_are_uniform():
    rejected = 0
    for seed in range(100):
        first, second = torch.randn(2, 20, generator=seeded(seed))
        rejected += compare_models(mean_score, [first], [second], seeded(seed), draws=60, level=0.8).significant
    assert 8 <= rejected <= 34  # 20 expected


def test_models_are_compared_by_iou():
    good = torch.eye(3).int() * 90 + torch.randint(0, 5, (20, 3, 3), generator=seeded()).int()
    bad = torch.eye(3).int() * 60 + torch.randint(0, 30, (20, 3, 3), generator=seeded(1)).int()
    found = compare_models(partial(iou_score, over='seen'), [good], [bad], seeded(2), draws=100)
    assert found.significant
    expected = mean_iou(good.sum(dim=0), 'seen') - mean_iou(bad.sum(dim=0), 'seen')
    assert found.interval.value == pytest.approx(expected)
    same = compare_models(iou_score, [good], [good], seeded(2), draws=50)
    assert (same.interval[:3], same.p_value, same.significant) == ((0, 0, 0), 1, False)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r'1 unit\(s\)'):
        bootstrap_interval(mean_score(torch.ones(1)), 1, seeded())
    with pytest.raises(ValueError, match='level=95'):
        bootstrap_interval(mean_score(torch.ones(2)), 2, seeded(), level=95)
    with pytest.raises(ValueError, match='none of the 2 units has a score'):
        bootstrap_interval(mean_score(torch.full((2,), torch.nan)), 2, seeded())
    with pytest.raises(ValueError, match='must have the same shape'):
        compare_models(mean_score, [torch.ones(2)], [torch.ones(3)], seeded())
