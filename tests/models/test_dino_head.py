"""Heads against the published code of DINO and iBOT."""

import pytest
import torch

from mmadclr.models.heads.dino_head import DINOHead, IBOTHead, patch_prototypes

SIZES = dict(in_dim=36, out_dim=64, hidden_dim=48, bottleneck_dim=24)
cases = pytest.mark.golden_names('name', 'dino_head', '(.+)/logits')


@pytest.fixture
def case(name, golden, tensors):
    arrays = golden('dino_head')
    config, params = arrays.config, f'{name}/params/'
    sizes = arrays.head(params)
    assert sizes['num_layers'] == config.get('nlayers', sizes['num_layers'])
    head = DINOHead(config['in_dim'], **sizes, norm_last_layer=name == 'fixed_norm')
    head.load_state_dict(tensors(arrays, params))
    common = {k: torch.from_numpy(arrays[k]) for k in ('input', 'input_tokens', 'upstream')}
    return head, common, tensors(arrays, f'{name}/')


@cases
def test_logits(case):
    head, common, expected = case
    torch.testing.assert_close(head(common['input']), expected['logits'], rtol=0, atol=2e-6)
    torch.testing.assert_close(head(common['input_tokens']), expected['logits_tokens'], rtol=0, atol=2e-6)


@cases
def test_gradients(case):
    head, common, expected = case
    x = common['input'].clone().requires_grad_()
    head(x).backward(common['upstream'])
    torch.testing.assert_close(x.grad, expected['grad_input'], rtol=0, atol=1e-5)
    for name, parameter in head.named_parameters():
        assert parameter.requires_grad == bool(expected[f'trainable/{name}']), name
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[f'grad/{name}'], rtol=0, atol=1e-5, msg=name)


@cases
def test_prototypes_have_the_norm_weight_g(case):
    head, _, expected = case
    identity = torch.eye(head.last_layer.weight_v.shape[1])
    torch.testing.assert_close(head.last_layer(identity).T, expected['effective_last_weight'], rtol=0, atol=2e-6)


def test_no_parameter_escapes_initialization():
    head = DINOHead(**SIZES)
    for parameter in head.parameters():
        torch.nn.init.constant_(parameter, float('nan'))
    head.init_weights()
    assert not any(p.isnan().any() for p in head.parameters())


def test_initialization_is_dinos():
    state = DINOHead(in_dim=384, out_dim=1024).state_dict()
    for i in (0, 2, 4):
        assert state[f'mlp.{i}.weight'].std().item() == pytest.approx(0.02, rel=0.02)
        assert not state[f'mlp.{i}.bias'].any()
    assert (state['last_layer.weight_g'] == 1).all()
    assert state['last_layer.weight_v'].abs().max().item() == pytest.approx(1 / 16, rel=0.01)
    assert {k for k in state if k.startswith('last')} == {'last_layer.weight_g', 'last_layer.weight_v'}


def test_one_layer_head():
    assert DINOHead(8, 4, bottleneck_dim=6, num_layers=1)(torch.randn(3, 8)).shape == (3, 4)


@pytest.mark.golden_names('name', 'ibot_vit', '(head_.+)/cls_logits')
def test_ibot_head_equals_the_published_one(golden, tensors, name):
    arrays = golden('ibot_vit')
    params = f'{name}/params/'
    state, sizes = tensors(arrays, params), arrays.head(params) | dict(norm_last_layer=False)
    if name == 'head_shared':  # the published state lists one last layer under two names
        head = DINOHead(arrays.config['embed_dim'], **sizes)
        for part in ('weight_g', 'weight_v'):
            assert torch.equal(state.pop(f'last_layer2.{part}'), state[f'last_layer.{part}'])
    else:
        head = IBOTHead(arrays.config['embed_dim'], arrays.config['patch_out_dim'], **sizes)
    head.load_state_dict(state)
    tokens = torch.from_numpy(arrays['tokens_masked'])
    cls = head(tokens[:, 0])
    patches = patch_prototypes(head)(head.project(tokens[:, 1:]).features)
    for key, logits in (('cls_logits', cls), ('logits_from_cls_only', cls), ('patch_logits', patches)):
        torch.testing.assert_close(logits, torch.from_numpy(arrays[f'{name}/{key}']), rtol=0, atol=1e-5, msg=key)


def test_initialization_draws_all_prototypes_anew():
    head = IBOTHead(patch_out_dim=40, **SIZES)
    for parameter in head.parameters():
        torch.nn.init.constant_(parameter, float('nan'))
    head.init_weights()
    assert not any(parameter.isnan().any() for parameter in head.parameters())
    assert head.last_layer2.weight_v.abs().max().item() == pytest.approx(24**-0.5, rel=0.01)
    assert (head.last_layer2.weight_g == 1).all()
