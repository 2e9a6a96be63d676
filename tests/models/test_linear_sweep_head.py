"""A sweep of linear classifiers against runs of one rate each, built from plain torch; metrics in closed form."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmadclr.evaluation.linear_sweep import LinearSweepOptimConstructor, SweepAccuracy, check_disjoint, choose_rate
from mmadclr.models.heads import LinearSweepHead

RATES = (0.01, 0.3, 10.0)
SGD = dict(optimizer=dict(type='SGD', momentum=0.9, weight_decay=0.0), precision='fp32')


class Sample:
    """What the head needs of mmpretrain's ``DataSample``."""

    def __init__(self, label):
        self.gt_label = torch.tensor([label])

    def set_pred_label(self, labels):
        self.pred_label = labels


class Classifier(nn.Module):
    def __init__(self, head, trainable=False):
        super().__init__()
        self.backbone = nn.Linear(2, 2).requires_grad_(trainable)
        self.head = head


def batches(count=20):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.randn(8, 6, generator=generator), torch.randint(0, 4, (8,), generator=generator)


def test_a_sweep_equals_single_runs():
    head = LinearSweepHead(4, 6, RATES)
    wrapper = LinearSweepOptimConstructor(SGD)(Classifier(head))
    singles = [nn.Linear(6, 4) for _ in RATES]
    for single in singles:
        single.load_state_dict(head.classifiers[0].state_dict())
    optimizers = [torch.optim.SGD(s.parameters(), lr=lr, momentum=0.9) for s, lr in zip(singles, RATES, strict=True)]
    for features, labels in batches():
        losses = head.loss((features,), [Sample(label) for label in labels.tolist()])
        alone = [F.cross_entropy(single(features), labels) for single in singles]
        torch.testing.assert_close(losses['loss'], sum(alone), rtol=1e-6, atol=0)
        torch.testing.assert_close(losses['lowest_cross_entropy'], min(alone), rtol=1e-6, atol=0)
        wrapper.update_params(losses['loss'])
        for loss, optimizer in zip(alone, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for classifier, single in zip(head.classifiers, singles, strict=True):
        for a, b in zip(classifier.parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_all_classifiers_start_alike():
    head = LinearSweepHead(50, 400, RATES)
    head.init_weights()
    weights = torch.stack([classifier.weight for classifier in head.classifiers])
    assert torch.equal(weights, weights[:1].expand_as(weights))
    # 20,000 draws: the standard error of their deviation is .5 %.
    assert weights[0].std().item() == pytest.approx(0.01, rel=0.03)
    assert abs(weights[0].mean().item()) < 5 * 0.01 / 20_000**0.5
    assert all((classifier.bias == 0).all() for classifier in head.classifiers)


def test_only_the_classifiers_are_optimized_each_at_its_rate():
    head = LinearSweepHead(4, 6, RATES)
    groups = LinearSweepOptimConstructor(SGD)(Classifier(head)).optimizer.param_groups
    assert [group['lr'] for group in groups] == list(RATES)
    for group, classifier in zip(groups, head.classifiers, strict=True):
        assert [*map(id, group['params'])] == [*map(id, classifier.parameters())]


def test_predictions_and_accuracies_of_every_classifier():
    pytest.importorskip('mmpretrain')
    head = LinearSweepHead(4, 6, RATES)
    for classifier in head.classifiers:
        nn.init.normal_(classifier.weight)
    features, labels = next(batches())
    samples = head.predict((features,), [Sample(label) for label in labels.tolist()])
    expected = [(classifier(features).argmax(1) == labels).double().mean().item() * 100 for classifier in head.classifiers]
    metric = SweepAccuracy()
    metric.process(None, [vars(sample) for sample in samples])
    found = metric.evaluate(len(samples))
    assert found == pytest.approx({f'sweep/{number}': value for number, value in enumerate(expected)})


def test_the_rate_is_chosen_on_held_out_images():
    metrics = choose_rate((0.1, 1.0, 10.0), [50.0, 60.0, 60.0], [70.0, 65.0, 60.0])
    by_rate = {'linear_top1_by_lr/0.1': 70.0, 'linear_top1_by_lr/1': 65.0, 'linear_top1_by_lr/10': 60.0}
    chosen = {'linear_top1': 65.0, 'linear_lr': 1.0, 'linear_top1_held_out': 60.0}
    assert metrics == {**chosen, 'linear_top1_best_on_val': 70.0, 'linear_lr_best_on_val': 0.1, **by_rate}


@pytest.mark.parametrize('rates', [(), (0.0, 1.0), (-1.0,), (0.1, 0.1)])
def test_impossible_rates_are_errors(rates):
    with pytest.raises(ValueError, match='must be one or more distinct positive rates'):
        LinearSweepHead(4, 6, rates)


def test_impossible_optimizers_are_errors():
    with pytest.raises(ValueError, match='set model.head.learning_rates'):
        LinearSweepOptimConstructor(dict(optimizer=dict(type='SGD', lr=0.1)))
    with pytest.raises(ValueError, match='paramwise_cfg has no effect'):
        LinearSweepOptimConstructor(SGD, dict(bias_lr_mult=2.0))
    constructor = LinearSweepOptimConstructor(SGD)
    with pytest.raises(ValueError, match='not Linear'):
        constructor(Classifier(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match='frozen_stages'):
        constructor(Classifier(LinearSweepHead(4, 6, RATES), trainable=True))


def test_training_on_held_out_images_is_an_error():
    train = dict(data_root='a', split='train', part='train', held_out_fraction=0.1, pipeline=[1])
    check_disjoint(train, {**train, 'part': 'held_out', 'pipeline': []})
    for changed in (dict(part='train'), dict(part='held_out', held_out_fraction=0.2), dict(part='held_out', split='val')):
        with pytest.raises(ValueError, match='would be trained on held-out images'):
            check_disjoint(train, {**train, **changed})
    with pytest.raises(ValueError, match='same held_out_seed in both'):
        check_disjoint(train, {**train, 'part': 'held_out', 'held_out_seed': 3})
