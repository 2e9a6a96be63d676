"""Per-tensor clipping, parameter groups, precision."""

import pytest
import torch
from torch import nn

from mmadclr.engine.optimizers.constructors import SelfDistillationOptimConstructor
from mmadclr.engine.optimizers.wrappers import SelfDistillationOptimWrapper, clip_each_tensor
from mmadclr.precision import resolve_precision


def test_every_tensor_is_clipped_by_itself():
    gradients = [torch.randn(4, 3) * scale for scale in (0.01, 1.0, 100.0)] + [torch.zeros(2)]
    expected = [g * min(1.0, 0.5 / (g.norm().item() + 1e-6)) for g in gradients]
    clip_each_tensor(gradients, 0.5)
    for got, want in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, want)
    clip_each_tensor([], 0.5)


def build(model, **kwargs):
    cfg = dict(optimizer=dict(type='SGD', lr=1.0), precision='fp32') | kwargs
    return SelfDistillationOptimConstructor(cfg)(model)


def test_frozen_parameters_keep_still_and_gather_no_moments():
    model = nn.Linear(3, 2)
    wrapper = build(model, optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.5))
    before = model.weight.detach().clone()
    wrapper.frozen = [model.weight]
    wrapper.update_params(model(torch.ones(1, 3)).sum())
    assert torch.equal(model.weight, before)
    assert model.weight not in wrapper.optimizer.state
    wrapper.frozen = []
    wrapper.update_params(model(torch.ones(1, 3)).sum())
    assert not torch.equal(model.weight, before)


def test_accumulated_batches_equal_the_joint_batch():
    torch.manual_seed(0)
    models = [nn.Linear(3, 1) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    joint, split = build(models[0]), build(models[1], accumulative_counts=2)
    data = torch.randn(8, 3)
    joint.update_params(models[0](data).square().mean())
    for part in data.split(4):
        split.update_params(models[1](part).square().mean())
    torch.testing.assert_close(models[0].weight, models[1].weight)


def test_bf16_is_autocast_on_any_device():
    model = nn.Linear(3, 2)
    wrapper = build(model, precision='bf16')
    with wrapper.optim_context(model):
        assert model(torch.ones(1, 3)).dtype == torch.bfloat16
    with build(model).optim_context(model):
        assert model(torch.ones(1, 3)).dtype == torch.float32


def test_precision_follows_the_hardware(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert resolve_precision('auto') == 'fp32'
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: including_emulation)
    assert resolve_precision('auto') == 'fp32'  # emulated bf16 is slower than fp32
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: True)
    assert resolve_precision('auto') == 'bf16'


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(precision='fp16'), "precision='fp16'"),
        (dict(accumulative_counts=0), 'accumulative_counts=0'),
        (dict(max_norm=-1.0), 'max_norm=-1.0 must not be negative'),
        (dict(clip_grad=dict(max_norm=1.0)), 'set max_norm'),
    ],
)
def test_bad_arguments_are_explained(kwargs, message):
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    with pytest.raises(ValueError, match=message):
        SelfDistillationOptimWrapper(optimizer, **kwargs)
    with pytest.raises(ValueError, match='paramwise_cfg has no effect'):
        SelfDistillationOptimConstructor({}, dict(norm_decay_mult=0))


def test_fused_kernels_are_the_default_and_change_nothing():
    models = [nn.Linear(3, 2) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    wrappers = [
        build(model, optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.5) | choice)
        for model, choice in zip(models, (dict(), dict(foreach=False)), strict=True)
    ]
    assert [wrapper.optimizer.defaults['fused'] for wrapper in wrappers] == [True, None]
    for _ in range(3):
        for model, wrapper in zip(models, wrappers, strict=True):
            wrapper.update_params(model(torch.arange(3.0)).square().sum())
    torch.testing.assert_close(models[0].weight, models[1].weight)
    assert build(nn.Linear(3, 2), optimizer=dict(type='Adadelta', lr=1.0)).optimizer.defaults.get('fused') is None
