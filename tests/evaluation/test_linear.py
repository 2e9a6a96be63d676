"""Classifiers trained side by side against torch's own modules, optimizer and schedule, one at a time."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from feature_sets import feature_set
from mmengine import dist
from torch import nn

from mmadclr.datasets.subsets import held_out
from mmadclr.evaluation.linear import (
    LEARNING_RATES,
    Classifiers,
    LinearRecipe,
    accuracies,
    choose,
    default_held_out,
    evaluate_linear,
    initial_classifiers,
    train_classifiers,
)

RATES = (0.01, 0.3, 2.0)
RECIPE = partial(LinearRecipe, epochs=5, batch_size=16, held_out=0.2)


def train(recipe, rates, data, chosen=None):
    chosen = np.arange(len(data.labels)) if chosen is None else chosen
    return train_classifiers(data.rows, torch.from_numpy(data.labels), 4, rates, recipe, chosen, 'cpu')


def reference(recipe, rate, data, chosen):
    """nn.Linear, SGD and CosineAnnealingLR, in the documented order of images."""
    layer = nn.Linear(6, 4)
    first = initial_classifiers(1, 4, 6, recipe.seed)
    layer.load_state_dict({'weight': first.weight[0], 'bias': first.bias[0]})
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate * recipe.batch_size / 256, momentum=recipe.momentum)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    features, labels = data.rows[:], torch.from_numpy(data.labels)
    for epoch in range(recipe.epochs):
        order = torch.from_numpy(chosen[np.random.default_rng((recipe.seed, epoch)).permutation(len(chosen))])
        for rows in order.split(recipe.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(layer(features[rows]), labels[rows]).backward()
            optimizer.step()
        schedule.step()
    return layer


@pytest.mark.parametrize('momentum', [0.0, 0.9])
def test_each_classifier_is_the_one_torch_trains(momentum):
    recipe, data = RECIPE(learning_rates=RATES, momentum=momentum, seed=3), feature_set(splits=(10, 25))
    chosen = np.arange(0, 60, 2)[:-3]  # 27 images: the last batch is not full
    found = train(recipe, RATES, data, chosen)
    for number, rate in enumerate(RATES):
        expected = reference(recipe, rate, data, chosen)
        torch.testing.assert_close(found.weight[number], expected.weight.detach(), rtol=0, atol=1e-6)
        torch.testing.assert_close(found.bias[number], expected.bias.detach(), rtol=0, atol=1e-6)


def test_classifiers_share_nothing():
    recipe, data = RECIPE(learning_rates=RATES), feature_set()
    together = train(recipe, RATES, data)
    for number, rate in enumerate(RATES):
        alone = train(recipe, [rate], data)
        for found, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(found[number], expected[0], rtol=0, atol=1e-6)


def test_initial_weights_are_small_and_alike():
    weight, bias = initial_classifiers(3, 100, 200, seed=0)
    assert weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not bias.any()
    assert torch.equal(weight[0], weight[2])
    assert not torch.equal(weight[0], initial_classifiers(1, 100, 200, seed=1).weight[0])


def test_accuracies_equal_sorting_and_ties_count_as_wrong():
    data = feature_set(50, classes=8, spread=2)
    classifiers, labels = Classifiers(torch.randn(3, 8, 6), torch.randn(3, 8)), torch.from_numpy(data.labels)
    chosen = np.arange(5, 48)
    found = accuracies(classifiers, data.rows, labels, chosen, batch_size=10)
    for number in range(3):
        logits = data.rows[chosen] @ classifiers.weight[number].T + classifiers.bias[number]
        order = logits.argsort(dim=1, descending=True)
        for column, top in enumerate((1, 5)):
            hits = [label in row[:top] for label, row in zip(labels[chosen].tolist(), order.tolist(), strict=True)]
            assert found[number, column].item() == pytest.approx(100 * sum(hits) / len(hits))
    for value in (0.0, math.nan, math.inf):
        same = Classifiers(torch.zeros(1, 8, 6), torch.full((1, 8), value))
        assert accuracies(same, data.rows, labels, chosen, 10).tolist() == [[0, 0]]


def test_rate_is_chosen_on_held_out_images_and_scored_on_others():
    data, val = feature_set(80, spread=1.5), feature_set(40, seed=1, spread=1.5)
    recipe = RECIPE(learning_rates=RATES)
    held = held_out(data.labels, 0.2, seed=0)
    result = evaluate_linear(data, val, recipe, 'cpu')
    for row, rate in zip(result.table, RATES, strict=True):
        layer = reference(recipe, rate, data, np.flatnonzero(~held))
        for key, images, rows in (('top1', val, slice(None)), ('held_out_top1', data, np.flatnonzero(held))):
            hits = layer(images.rows[rows]).argmax(dim=1) == torch.from_numpy(images.labels[rows])
            assert row[key] == pytest.approx(100 * hits.double().mean().item())
        assert row['lr'] == rate
    best = max(result.table, key=lambda row: row['held_out_top1'])
    assert result.metrics['linear_lr'] == best['lr']
    assert result.metrics['linear_top1'] == best['top1']
    assert result.metrics['linear_top1_held_out'] == best['held_out_top1']
    assert result.metrics['linear_top1_best_on_val'] == max(row['top1'] for row in result.table)
    chosen = train(recipe, [best['lr']], data, np.flatnonzero(~held))
    torch.testing.assert_close(result.classifier.weight, chosen.weight, rtol=0, atol=1e-6)


def test_retraining_uses_all_images_at_the_chosen_rate():
    data, val = feature_set(80, spread=1.5), feature_set(40, seed=1, spread=1.5)
    plain, again = (evaluate_linear(data, val, RECIPE(learning_rates=RATES, retrain=r), 'cpu') for r in (False, True))
    assert again.metrics['linear_lr'] == plain.metrics['linear_lr']
    assert again.table == plain.table
    expected = train(RECIPE(), [plain.metrics['linear_lr']], data)
    assert torch.equal(again.classifier.weight, expected.weight)
    top1 = accuracies(expected, val.rows, torch.from_numpy(val.labels), np.arange(40), 40)[0, 0].item()
    assert again.metrics['linear_top1'] == top1


def test_a_single_rate_needs_nothing_held_out():
    data, val = feature_set(4), feature_set(8, seed=1)  # one image a class
    result = evaluate_linear(data, val, RECIPE(learning_rates=(0.5,)), 'cpu')
    assert set(result.metrics) == {'linear_top1', 'linear_top5', 'linear_lr'}
    assert torch.equal(result.classifier.weight, train(RECIPE(), [0.5], data).weight)
    with pytest.raises(ValueError, match=r'none can be held out to choose the learning rate: pass one rate \(--lr\)'):
        evaluate_linear(data, val, RECIPE(learning_rates=RATES), 'cpu')


def test_rates_that_diverge_disturb_no_other():
    data, val = feature_set(spread=30), feature_set(20, seed=1, spread=30)
    recipe = RECIPE(learning_rates=(0.01, 1e38))
    result = evaluate_linear(data, val, recipe, 'cpu')
    assert [row['diverged'] for row in result.table] == [False, True]
    assert result.table[1]['top1'] == 0
    assert result.metrics['linear_lr'] == result.metrics['linear_lr_best_on_val'] == 0.01
    alone = train(recipe, [0.01], data, np.flatnonzero(~held_out(data.labels, 0.2)))
    torch.testing.assert_close(result.classifier.weight, alone.weight, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match='diverged at all learning rates: choose smaller ones'):
        evaluate_linear(data, val, RECIPE(learning_rates=(1e37, 1e38)), 'cpu')


def test_of_equal_rates_the_smallest_is_chosen():
    table = [dict(lr=lr, top1=top1, diverged=lr > 5) for lr, top1 in ((1, 50), (2, 60), (3, 60), (9, 99))]
    assert choose(table, 'top1')['lr'] == 2


def test_rates_are_those_of_the_published_sweep():
    expected = [digit * 10**power for power in (-4, -3, -2, -1, 0) for digit in range(1, 10)]
    assert list(LEARNING_RATES) == pytest.approx(expected)


@pytest.mark.parametrize('rates', [(), (0.1, 0.1), (0.0, 1.0), (math.inf,), (math.nan,)])
def test_impossible_rates_are_refused(rates):
    with pytest.raises(ValueError, match='must be one or more distinct positive numbers'):
        LinearRecipe(learning_rates=rates)


def test_rates_are_dealt_to_processes(monkeypatch):
    """Each of two processes trains every other rate; that their results come together is tested with the tool."""
    data, val = feature_set(80), feature_set(40, seed=1)
    whole = evaluate_linear(data, val, RECIPE(learning_rates=RATES), 'cpu')
    monkeypatch.setattr(dist, 'get_world_size', lambda: 2)
    for rank, rates in ((0, [0.01, 2.0]), (1, [0.3])):
        monkeypatch.setattr(dist, 'get_rank', lambda rank=rank: rank)
        part = evaluate_linear(data, val, RECIPE(learning_rates=RATES), 'cpu')
        assert part.table == [row for row in whole.table if row['lr'] in rates]


def test_a_share_that_tells_rates_apart_is_held_out():
    shares = {481: 0.2, 4_672: 0.2, 20_000: 0.1, 100_000: 0.02, 1_281_167: 0.02}
    assert {number: default_held_out(number) for number in shares} == shares
    data = feature_set()
    default, named = (
        evaluate_linear(data, data, RECIPE(learning_rates=RATES, held_out=share), 'cpu') for share in (None, 0.2)
    )
    assert default.metrics == named.metrics
    assert default.metrics != evaluate_linear(data, data, RECIPE(learning_rates=RATES, held_out=0.4), 'cpu').metrics
