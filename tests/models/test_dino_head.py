"""Heads against the published code of DINO and iBOT."""

import pytest
import torch

from mmadclr.models.heads.dino_head import DINOHead, IBOTHead, patch_prototypes

SIZES = dict(in_dim=36, out_dim=64, hidden_dim=48, bottleneck_dim=24)


@pytest.fixture(params=['fixed_norm', 'free_norm'])
def case(request, golden, tensors):
    arrays = golden('dino_head')
    head = DINOHead(**SIZES, norm_last_layer=request.param == 'fixed_norm')
    head.load_state_dict(tensors(arrays, f'{request.param}/params/'))
    common = {k: torch.from_numpy(v) for k, v in arrays.items() if '/' not in k}
    return head, common, tensors(arrays, f'{request.param}/')


def test_logits(case):
    head, common, expected = case
    torch.testing.assert_close(head(common['input']), expected['logits'], rtol=0, atol=2e-6)
    torch.testing.assert_close(head(common['input_tokens']), expected['logits_tokens'], rtol=0, atol=2e-6)


def test_gradients(case):
    head, common, expected = case
    x = common['input'].clone().requires_grad_()
    head(x).backward(common['upstream'])
    torch.testing.assert_close(x.grad, expected['grad_input'], rtol=0, atol=1e-5)
    for name, parameter in head.named_parameters():
        assert parameter.requires_grad == bool(expected[f'trainable/{name}']), name
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[f'grad/{name}'], rtol=0, atol=1e-5, msg=name)


def test_prototypes_have_the_norm_weight_g(case):
    head, _, expected = case
    identity = torch.eye(24)
    torch.testing.assert_close(head.last_layer(identity).T, expected['effective_last_weight'], rtol=0, atol=2e-6)


def test_no_parameter_escapes_initialisation():
    head = DINOHead(**SIZES)
    for parameter in head.parameters():
        torch.nn.init.constant_(parameter, float('nan'))
    head.init_weights()
    assert not any(p.isnan().any() for p in head.parameters())


def test_initialisation_is_dinos():
    state = DINOHead(in_dim=384, out_dim=1024).state_dict()
    for i in (0, 2, 4):
        assert state[f'mlp.{i}.weight'].std().item() == pytest.approx(0.02, rel=0.02)
        assert not state[f'mlp.{i}.bias'].any()
    assert (state['last_layer.weight_g'] == 1).all()
    assert state['last_layer.weight_v'].abs().max().item() == pytest.approx(1 / 16, rel=0.01)
    assert {k for k in state if k.startswith('last')} == {'last_layer.weight_g', 'last_layer.weight_v'}


def test_one_layer_head():
    assert DINOHead(8, 4, bottleneck_dim=6, num_layers=1)(torch.randn(3, 8)).shape == (3, 4)


@pytest.mark.parametrize('name', ['head_shared', 'head_separate'])
def test_ibot_head_equals_the_published_one(golden, tensors, name):
    arrays = golden('ibot_vit')
    state, sizes = tensors(arrays, f'{name}/params/'), SIZES | dict(out_dim=48, hidden_dim=40, norm_last_layer=False)
    if name == 'head_shared':  # the published state lists one last layer under two names
        head = DINOHead(**sizes)
        state = {key: value for key, value in state.items() if 'last_layer2' not in key}
    else:
        head = IBOTHead(patch_out_dim=40, **sizes)
    head.load_state_dict(state)
    tokens = torch.from_numpy(arrays['tokens_masked'])
    got = {'cls_logits': head(tokens[:, 0]), 'patch_logits': patch_prototypes(head)(head.project(tokens[:, 1:]).features)}
    for key, logits in got.items():
        torch.testing.assert_close(logits, torch.from_numpy(arrays[f'{name}/{key}']), rtol=0, atol=1e-5, msg=key)


def test_initialisation_draws_all_prototypes_anew():
    head = IBOTHead(patch_out_dim=40, **SIZES)
    for parameter in head.parameters():
        torch.nn.init.constant_(parameter, float('nan'))
    head.init_weights()
    assert not any(parameter.isnan().any() for parameter in head.parameters())
    assert head.last_layer2.weight_v.abs().max().item() == pytest.approx(24**-0.5, rel=0.01)
    assert (head.last_layer2.weight_g == 1).all()
