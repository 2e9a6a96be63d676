"""Evaluators of one's own: what is asked of them before a run begins, and of what they return."""

import numpy as np
import pytest
import torch

from mmadclr.config.check import ConfigError, check_config
from mmadclr.config.sense import check_sense
from mmadclr.evaluation import WeightedKNN
from mmadclr.evaluation.evaluators import build_evaluators, evaluate_all
from mmadclr.evaluation.feature_shards import Shard
from mmadclr.registry import METRICS


class Returns:
    """An evaluator that declares nothing: no parts, no rules."""

    def __init__(self, found, scale=1):
        self.found, self.scale = found, scale

    def __call__(self, bank, bank_labels, features, labels):
        return self.found


class WithoutConstructor:
    """The sum of all that it gets."""

    def __call__(self, bank, bank_labels, features, labels):
        return {'sum': bank.sum() + bank_labels.sum() + features.sum() + labels.sum()}


class InShards:
    """The same of shards."""

    def of_shards(self, bank, features):
        return {'shards': bank.features.sum() + bank.labels.sum() + features.features.sum() + features.labels.sum()}


class OfModel:
    """Called with something else, as the dense probe is."""

    def __call__(self, model):
        return {}


class OfOneShard:
    """The same in shards."""

    def of_shards(self, bank):
        return {}


class Uncallable:
    """As metrics of mmengine are."""

    def process(self, data_batch, data_samples):
        return {}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    known = {cls.__name__: cls for cls in (Returns, WithoutConstructor, InShards, OfModel, OfOneShard, Uncallable)}
    monkeypatch.setattr(METRICS, '_module_dict', METRICS._module_dict | known)


@pytest.fixture
def shards():
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(count, 4, generator=generator) for count in (9, 5)]
    return [Shard(rows, torch.arange(len(rows)), torch.arange(len(rows)) % 3) for rows in features]


def evaluated(configs, shards):
    return evaluate_all(build_evaluators(configs, 'val_evaluator'), *shards)


def test_evaluators_that_declare_nothing_get_all_features(shards):
    expected = sum((shard.features.sum() + shard.labels.sum()).item() for shard in shards)
    found = evaluated([dict(type='WithoutConstructor'), dict(type='InShards'), dict(type='WeightedKNN', k=3)], shards)
    assert found == {
        'sum': pytest.approx(expected),
        'shards': pytest.approx(expected),
        **WeightedKNN(3).of_shards(*shards),
    }
    assert evaluated(dict(type=WithoutConstructor), shards) == {'sum': found['sum']}
    assert evaluated([], shards) == {}


def test_numbers_of_any_kind_are_floats(shards):
    numbers = dict(a=1, b=0.5, c=np.float32(2), d=np.int64(3), e=torch.tensor(4.0), f=np.array(5), g=True)
    found = evaluated(dict(type='Returns', found=numbers), shards)
    assert found == dict(a=1, b=0.5, c=2, d=3, e=4, f=5, g=1)
    assert {type(value) for value in found.values()} == {float}


@pytest.mark.parametrize(
    ('found', 'message'),
    [
        (None, 'Returns returned NoneType: an evaluator must return a dict of numbers'),
        (50.0, 'Returns returned float: an evaluator must return a dict'),
        ({'top1': None}, "Returns returned 'top1': None; an evaluator must return numbers by name"),
        ({'top1': '50'}, "returned 'top1': '50'; an evaluator"),
        ({'top1': [1.0]}, r"returned 'top1': \[1.0\]; an evaluator"),
        ({'top1': torch.ones(2)}, "returned 'top1': tensor"),
        ({1: 50.0}, 'returned 1: 50.0; an evaluator must return numbers by name'),
    ],
)
def test_what_is_no_number_by_name_is_an_error(shards, found, message):
    with pytest.raises(ValueError, match=message):
        evaluated(dict(type='Returns', found=found), shards)


def test_no_number_takes_the_name_of_another(shards):
    first, second = (dict(type='Returns', found={'top1': value}) for value in (1.0, 2.0))
    with pytest.raises(ValueError, match='Returns returned top1, which is also the name of another number'):
        evaluated([first, second], shards)
    assert evaluated([first, first], shards) == {'top1': 1.0}


@pytest.mark.parametrize(
    ('configs', 'message'),
    [
        (dict(k=3), r"val_evaluator={'k': 3} has no type: name the class of the evaluator"),
        ([dict(type='WeightedKNN'), dict(k=3)], r"val_evaluator\.1={'k': 3} has no type"),
        (['WeightedKNN'], r"val_evaluator\.0='WeightedKNN' has no type"),
        (dict(type='Returns'), "val_evaluator: Returns cannot be built: missing a required argument: 'found'"),
        (dict(type='Returns', found={}, scael=2), "val_evaluator: Returns cannot be built: .*'scael'"),
        (dict(type='WithoutConstructor', k=3), "val_evaluator: WithoutConstructor cannot be built: .*'k'"),
        (
            [dict(type='OfModel')],
            r'val_evaluator\.0: OfModel cannot be called with \(bank, bank_labels, features, labels\): too',
        ),
        (dict(type='OfOneShard'), r'val_evaluator: OfOneShard\.of_shards cannot be called with \(bank, features\): too'),
        (
            dict(type='Uncallable'),
            r'val_evaluator: Uncallable cannot be called with \(bank, bank_labels, features, labels\)',
        ),
    ],
)
def test_evaluators_that_cannot_work_are_explained_before_features_are_extracted(configs, message):
    with pytest.raises(ValueError, match=message):
        build_evaluators(configs, 'val_evaluator')


@pytest.mark.parametrize(
    ('evaluator', 'message'),
    [
        (
            dict(type='Returns', found={}, scael=2),
            r'val_evaluator\.0\.scael: Returns has no such argument; did you mean scale\?',
        ),
        (dict(type='WithoutConstructor', k=2), r'val_evaluator\.0\.k: WithoutConstructor has no such argument'),
        (dict(type='Retruns', found={}), r"val_evaluator\.0: there is no component 'Retruns'; did you mean Returns\?"),
    ],
)
def test_typos_in_an_evaluator_that_declares_nothing_are_named(evaluator, message):
    with pytest.raises(ConfigError, match=message):
        check_config(dict(val_evaluator=[evaluator]))


def test_an_evaluator_that_declares_nothing_hides_nothing():
    cfg = dict(val_evaluator=[dict(type='Returns', found={}), dict(type='WithoutConstructor')])
    check_config(cfg)
    check_sense(cfg)
    cfg['load_from'] = '/none.pth'
    with pytest.raises(ConfigError, match=r'none\.pth'):
        check_sense(cfg)
