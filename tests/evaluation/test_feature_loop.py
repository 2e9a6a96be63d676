"""Features of an evaluation within a run: evaluators that take parts or wholes, and the form banks are kept in."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image

from mmadclr.evaluation import RawPixels, WeightedKNN
from mmadclr.evaluation.extraction import extract_shard
from mmadclr.evaluation.feature_loop import BankForm, FeatureEvalLoop, evaluator_configs
from mmadclr.models.preprocessors import ViewPreprocessor


class WholeKNN:
    """An evaluator that has no ``of_shards``."""

    def __call__(self, bank, bank_labels, features, labels):
        found = WeightedKNN(3)(bank, bank_labels, features, labels)
        self.bank_type = bank.dtype
        return {f'whole_{name}': value for name, value in found.items()}


@pytest.fixture
def loop(tmp_path):
    """A loop over two folders of noisy gray images, with both kinds of evaluators."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 30), ('val', 20)):
        for number in range(count):
            path = tmp_path / split / f'class{number % 3}' / f'{number}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 150 + 40 * (number % 3), (16, 16, 3), dtype=np.uint8)).save(path)
    transform = dict(type='mmadclr.ResizeCenterCrop', resize=16, size=16)
    dataset = dict(type='mmadclr.ImageDataset', data_root=str(tmp_path / 'val'), with_label=True, transform=transform)
    sampler = dict(type='mmadclr.EpochSampler', shuffle=False)
    loader = dict(dataset=dataset, sampler=sampler, collate_fn=dict(type='mmadclr.collate_samples'), batch_size=4)
    runner = SimpleNamespace(seed=0, build_dataloader=Runner.build_dataloader, _randomness_cfg={})
    evaluators = [dict(type='WeightedKNN', k=3), dict(type=WholeKNN)]
    DefaultScope.get_instance('loops', scope_name='mmadclr')

    def build(evaluators=evaluators, **kwargs):
        return FeatureEvalLoop(runner, loader, evaluators, dict(data_root=str(tmp_path / 'train')), **kwargs)

    return build


def test_evaluators_of_parts_and_of_wholes_find_the_same(loop):
    model = RawPixels(ViewPreprocessor())
    built = loop()
    found = built.evaluate(model)
    loaders = (built.bank_dataloader, built.dataloader)
    expected = WeightedKNN(3)(*(part for loader in loaders for part in extract_shard(model, loader).full()))
    assert {name: found[name] for name in expected} == expected
    assert {name: found[f'whole_{name}'] for name in expected} == expected
    assert 40 < expected['knn3_T0.07_top1'] < 100
    assert built.evaluators['1'].bank_type == torch.float32


class OfModel:
    """An evaluator that wants the model."""

    def of_model(self, model):
        self.model = model
        return {'knn3_T0.07_top1': -1.0}


def test_an_evaluator_of_the_model_gets_it_and_equal_names_are_kept_apart(loop):
    model, knn = RawPixels(ViewPreprocessor()), dict(type='WeightedKNN', k=3)
    expected = loop([knn]).evaluate(model)
    built = loop(dict(knn=knn, mine=dict(type=OfModel), off=None))
    assert built.evaluate(model) == {**expected, 'mine/knn3_T0.07_top1': -1.0}
    assert built.evaluators['mine'].model is model


def test_features_are_extracted_once_and_only_if_somebody_asks(loop, monkeypatch):
    extracted = []

    def count(*args, **kwargs):
        extracted.append(1)
        return extract_shard(*args, **kwargs)

    monkeypatch.setattr('mmadclr.evaluation.feature_loop.extract_shard', count)
    loop([dict(type=OfModel)]).evaluate(RawPixels(ViewPreprocessor()))
    assert not extracted
    loop().evaluate(RawPixels(ViewPreprocessor()))
    assert len(extracted) == 2  # bank and images


def test_evaluators_by_key_by_number_and_alone():
    knn, probe = dict(type='WeightedKNN'), dict(type='DenseProbe')
    assert evaluator_configs(knn) == {'0': knn}
    assert evaluator_configs([knn, probe]) == {'0': knn, '1': probe}
    assert evaluator_configs(dict(a=knn, b=None, c=probe)) == {'a': knn, 'c': probe}


@pytest.mark.parametrize('evaluator', [dict(knn=dict(k=3)), dict(k=3), [3], [], dict(off=None)])
def test_what_is_not_an_evaluator_is_refused(evaluator):
    with pytest.raises(ValueError, match=r'val_evaluator=.*set a dict with a type, or a list or dict of these'):
        evaluator_configs(evaluator)


@pytest.mark.parametrize(('dtype', 'kept'), [('fp32', torch.float32), ('bf16', torch.bfloat16), ('fp16', torch.float16)])
def test_a_bank_in_16_bits_or_on_the_cpu_finds_nearly_the_same(loop, dtype, kept):
    model = RawPixels(ViewPreprocessor())
    built = loop(bank_dtype=dtype, bank_device='cpu')
    plain, found = loop().evaluate(model), built.evaluate(model)
    assert built.evaluators['1'].bank_type == kept
    assert found['knn3_T0.07_top1'] == pytest.approx(plain['knn3_T0.07_top1'], abs=0 if dtype == 'fp32' else 5.1)  # an image


def test_forms_of_banks_that_are_none_or_too_small_are_explained(loop):
    with pytest.raises(ValueError, match="bank_dtype='float8': choose one of 'fp32', 'bf16' and 'fp16'"):
        loop(bank_dtype='float8')
    with pytest.raises(ValueError, match="bank_device='disk': choose 'cpu', or omit it"):
        loop(bank_device='disk')
    large = torch.tensor([[1.0, 1e5]])
    with pytest.raises(ValueError, match="overflow bank_dtype='fp16': choose 'bf16'"):
        BankForm('fp16', None)(large)
    assert BankForm('bf16', None)(large).isfinite().all()
