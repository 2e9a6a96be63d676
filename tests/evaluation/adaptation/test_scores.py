"""Intervals of measures against normal theory, the bootstrap and closed forms, and measures of degenerate features."""

import math

import numpy as np
import pytest
import torch

from mmadclr.evaluation.adaptation.outputs import Outputs
from mmadclr.evaluation.adaptation.scores import (
    KINDS,
    MIOU,
    Score,
    dense_scores,
    difference,
    interval,
    jackknife,
    kind_of,
    scores_of,
)
from mmadclr.evaluation.dense.bootstrap import mean_score
from mmadclr.evaluation.dense_probe import mean_iou


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def outputs_of(whole, crop=None, patches=None, mirrored=None, labels=None):
    patches = randn(len(whole), 4, 6) if patches is None else patches
    return Outputs(
        whole,
        whole if crop is None else crop,
        patches,
        patches if mirrored is None else mirrored,
        np.arange(len(whole)),
        labels,
    )


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = randn(30)
    found, error = jackknife(mean_score(values), 30)
    assert error == pytest.approx((values.double().std() / math.sqrt(30)).item())
    assert (found.value, found.high - found.value) == pytest.approx((values.mean().item(), 1.959964 * error))
    grouped = jackknife(mean_score(randn(4000)), 4000)[1]
    assert grouped == pytest.approx(1 / math.sqrt(4000), rel=0.35)  # 40 groups: an error of about 11 %


@pytest.mark.parametrize('name', ['rank', 'uniformity'])
def test_intervals_without_repetition_hold_what_other_samples_give(name):
    mixing = torch.diag(torch.linspace(0.2, 2, 12))
    samples = [scores_of(outputs_of(randn(200, 12, seed=seed) @ mixing))[name] for seed in range(60)]
    found = [interval(sample) for sample in samples[:8]]
    assert all(each.low < each.value == sample.value < each.high for each, sample in zip(found, samples, strict=False))
    # The jackknife is never too narrow on average; for uniformity it is up to the square root of 2 too wide.
    ratio = np.mean([(each.high - each.low) / 2 / 1.96 for each in found]) / np.std([sample.value for sample in samples])
    assert 0.8 < ratio < 1.6


def test_ranks_and_uniformity_of_the_same_images_are_compared_in_pairs():
    whole = randn(200, 12)
    first, second = (scores_of(outputs_of(whole @ torch.diag(torch.linspace(low, 2, 12)))) for low in (0.2, 0.15))
    for name in ('rank', 'uniformity'):
        found = difference(first[name], second[name])
        assert found.interval.value == pytest.approx(first[name].value - second[name].value)
        assert found.significant
        assert found.interval.high - found.interval.low < interval(first[name]).high - interval(first[name]).low
        same = difference(first[name], first[name])
        assert (same.interval[:3], same.p_value, same.significant) == ((0, 0, 0), 1, False)
    with pytest.raises(ValueError, match='200 and 100 images: both models must be measured on the same images'):
        difference(first['rank'], scores_of(outputs_of(whole[:100]))['rank'])


def test_differences_of_means_are_paired():
    shared, noise = randn(150, seed=1), 0.1 * randn(150, seed=2)
    first, second = (Score((values,), mean_score) for values in (shared + 0.05 + noise, shared))
    found = difference(first, second)
    assert found.significant
    assert interval(first).high - interval(first).low > 5 * (found.interval.high - found.interval.low)


def test_mious_of_drawn_images_are_those_of_summed_counts():
    confusions = torch.randint(0, 9, (10, 4, 4), generator=torch.Generator().manual_seed(0))
    confusions[:, 3] = 0  # a class that is predicted, but not annotated
    counts = torch.stack((confusions.diagonal(dim1=1, dim2=2), confusions.sum(dim=2), confusions.sum(dim=1)), dim=1)
    score = dense_scores({'patch_linear_miou': counts})['patch_linear_miou']
    assert score.value == pytest.approx(mean_iou(confusions.sum(dim=0)))
    rows = torch.tensor([3, 3, 0, 9])
    assert score.statistic(counts)(rows) == pytest.approx(mean_iou(confusions[rows].sum(dim=0)))
    assert math.isnan(score.statistic(0 * counts)(rows))


@pytest.mark.parametrize('value', [0.3, 0.0])
def test_constant_features_have_rank_one_and_measures_at_chance(value):
    labels = torch.arange(40) % 4
    constant = outputs_of(torch.full((40, 6), value), patches=torch.ones(40, 4, 6), labels=labels)
    values = {name: score.value for name, score in scores_of(constant).items()}
    assert values['rank'] == pytest.approx(1, abs=1e-3)
    assert values['retrieval'] == pytest.approx(100 / 40)
    assert values['patch_agreement'] == 0
    assert values['uniformity'] == pytest.approx(0, abs=1e-6)
    assert values['knn'] <= 25
    assert interval(scores_of(constant)['rank']).high == pytest.approx(1, abs=1e-3)


def test_labels_of_one_class_give_no_knn():
    assert 'knn' in scores_of(outputs_of(randn(8, 3), labels=torch.arange(8) % 2))
    assert 'knn' not in scores_of(outputs_of(randn(8, 3), labels=torch.zeros(8, dtype=torch.int64)))


def test_kinds_of_measures():
    assert kind_of('retrieval') is KINDS['retrieval']
    assert kind_of('patch_knn20_T0.07_miou') is MIOU
    with pytest.raises(ValueError, match="measure 'accuracy' is unknown: choose one of retrieval, "):
        kind_of('accuracy')
