"""Evaluators of one's own: what is asked of them before a run begins, and of what they return."""

import numpy as np
import pytest
import torch

from mmadclr.config.check import ConfigError, check_config
from mmadclr.config.sense import check_sense
from mmadclr.evaluation.evaluators import build_evaluator, named_numbers
from mmadclr.registry import METRICS


class Whole:
    """An evaluator that declares nothing: no parts, no rules."""

    def __init__(self, number, scale=1):
        self.number, self.scale = number, scale

    def __call__(self, bank, bank_labels, features, labels):
        return {'number': self.number}


class WithoutConstructor:
    """One in shards, which names its arguments as it likes."""

    def of_shards(self, mine, queries, num_classes=None):
        return {}


class OfModel:
    """One of the model, which is called before anything else it has."""

    def of_model(self, model):
        return {}

    def __call__(self):
        return {}


class NotOfFeatures:
    """Called with something else than features."""

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
    known = (Whole, WithoutConstructor, OfModel, NotOfFeatures, OfOneShard, Uncallable)
    monkeypatch.setattr(METRICS, '_module_dict', METRICS._module_dict | {cls.__name__: cls for cls in known})


def test_evaluators_that_declare_nothing_are_built():
    built = build_evaluator(dict(type='Whole', number=3), 'val_evaluator')
    assert (built.number, built.scale) == (3, 1)
    for kind in (WithoutConstructor, OfModel):
        assert isinstance(build_evaluator(dict(type=kind), 'val_evaluator'), kind)
        assert isinstance(build_evaluator(dict(type=kind.__name__), 'val_evaluator'), kind)
    assert build_evaluator(dict(type='WeightedKNN', k=3), 'val_evaluator').ks == (3,)


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(type='Whole'), r"evaluator\.own: Whole cannot be built: missing a required argument: 'number'"),
        (dict(type='Whole', number=1, scael=2), r"evaluator\.own: Whole cannot be built: .*'scael'"),
        (dict(type='WithoutConstructor', k=3), r"evaluator\.own: WithoutConstructor cannot be built: .*'k'"),
        (
            dict(type='NotOfFeatures'),
            r'own: NotOfFeatures must have __call__\(bank, bank_labels, features, labels\): too many',
        ),
        (dict(type='OfOneShard'), r'own: OfOneShard must have of_shards\(bank, features\): too many'),
        (
            dict(type='Uncallable'),
            r'own: Uncallable is not an evaluator of features: .*of_model\(model\), of_shards\(bank, features\), __',
        ),
    ],
)
def test_evaluators_that_cannot_work_are_explained_before_features_are_extracted(config, message):
    with pytest.raises(ValueError, match=message):
        build_evaluator(config, 'val_evaluator.own')


def test_numbers_of_any_kind_are_floats():
    numbers = dict(a=1, b=0.5, c=np.float32(2), d=np.int64(3), e=torch.tensor(4.0), f=np.array(5), g=True)
    found = named_numbers(Whole(1), numbers)
    assert found == dict(a=1, b=0.5, c=2, d=3, e=4, f=5, g=1)
    assert {type(value) for value in found.values()} == {float}
    assert named_numbers(Whole(1), {}) == {}


@pytest.mark.parametrize(
    ('found', 'message'),
    [
        (None, 'Whole returned NoneType: an evaluator must return a dict of numbers'),
        (50.0, 'Whole returned float: an evaluator must return a dict'),
        ({'top1': None}, "Whole returned 'top1': None; an evaluator must return numbers by name"),
        ({'top1': '50'}, "returned 'top1': '50'; an evaluator"),
        ({'top1': [1.0]}, r"returned 'top1': \[1.0\]; an evaluator"),
        ({'top1': torch.ones(2)}, "returned 'top1': tensor"),
        ({1: 50.0}, 'returned 1: 50.0; an evaluator must return numbers by name'),
    ],
)
def test_what_is_no_number_by_name_is_an_error(found, message):
    with pytest.raises(ValueError, match=message):
        named_numbers(Whole(1), found)


@pytest.mark.parametrize(
    ('evaluator', 'message'),
    [
        (
            dict(type='Whole', number=1, scael=2),
            r'val_evaluator\.0\.scael: Whole has no such argument; did you mean scale\?',
        ),
        (dict(type='WithoutConstructor', k=2), r'val_evaluator\.0\.k: WithoutConstructor has no such argument'),
        (dict(type='Whoel', number=1), r"val_evaluator\.0: there is no component 'Whoel'; did you mean Whole\?"),
    ],
)
def test_typos_in_an_evaluator_that_declares_nothing_are_named(evaluator, message):
    with pytest.raises(ConfigError, match=message):
        check_config(dict(val_evaluator=[evaluator]))


def test_an_evaluator_that_declares_nothing_hides_nothing():
    cfg = dict(val_evaluator=[dict(type='Whole', number=1), dict(type='WithoutConstructor')])
    check_config(cfg)
    check_sense(cfg)
    cfg['load_from'] = '/none.pth'
    with pytest.raises(ConfigError, match=r'none\.pth'):
        check_sense(cfg)
