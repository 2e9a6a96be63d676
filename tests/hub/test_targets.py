"""What was written has to be what the library takes, whatever reads back equal."""

import pytest
import torch

from mmadclr.hub import targets
from mmadclr.hub.conversion import convert
from mmadclr.hub.targets import check_mm, check_timm, mm_name
from mmadclr.models.backbones import QueryViT

SETTINGS = dict(
    arch=dict(patch_size=8, embed_dim=24, depth=2, num_heads=3, mlp_ratio=4.0),
    class_token=True,
    final_norm=True,
    pos_embed_resize='dino',
    img_size=(32, 32),
)


@pytest.fixture
def state():
    return QueryViT(**SETTINGS).state_dict()


def of_package(state, package):
    return {f'backbone.{mm_name(name, package)}': tensor for name, tensor in state.items()}


SPOILED = {
    'missing': lambda state: {name: t for name, t in state.items() if 'norm.bias' not in name and 'ln1.bias' not in name},
    'more': lambda state: {**state, 'backbone.extra': torch.zeros(2)},
    'renamed': lambda state: {
        name.replace('.mlp.', '._orig_mod.mlp.').replace('.ffn.', '.mlp.'): t for name, t in state.items()
    },
    'reshaped': lambda state: {name: t[..., :1] if 'pos_embed' in name else t for name, t in state.items()},
}


@pytest.mark.parametrize('how', SPOILED)
def test_what_timm_does_not_take_is_not_certified(how, state):
    check_timm(state, SETTINGS)
    with pytest.raises(ValueError, match='does not load into the vision transformer of timm'):
        check_timm(SPOILED[how](state), SETTINGS)


@pytest.mark.dense
@pytest.mark.parametrize('how', SPOILED)
@pytest.mark.parametrize('package', ['mmpretrain', 'mmseg'])
def test_what_a_package_does_not_take_is_not_certified(how, package, state):
    check_mm(of_package(state, package), SETTINGS, package)
    with pytest.raises(ValueError, match=rf'names or shapes in the new file do not match {package}'):
        check_mm(SPOILED[how](of_package(state, package)), SETTINGS, package)


@pytest.mark.dense
@pytest.mark.parametrize('package', ['mmpretrain', 'mmseg'])
def test_the_package_itself_is_asked(package, state, monkeypatch):
    """Names by our table alone would certify a table that is wrong."""
    table = ((r'^blocks\.', 'layer.'),)
    monkeypatch.setitem(targets.MM_NAMES, package, table)
    with pytest.raises(ValueError, match=rf'does not load into the vision transformer of {package}: Missing key'):
        check_mm(of_package(state, package), SETTINGS, package)


@pytest.mark.parametrize('package', ['mmpretrain', 'mmseg'])
def test_without_the_package_names_and_shapes_are_compared(package, state, monkeypatch):
    monkeypatch.setattr('mmadclr.hub.targets._models', lambda package: None)
    check_mm(of_package(state, package), SETTINGS, package)
    for spoil in SPOILED.values():
        with pytest.raises(ValueError, match='names or shapes'):
            check_mm(spoil(of_package(state, package)), SETTINGS, package)


def test_compiled_blocks_are_converted_for_timm(state, tmp_path):
    """And the result loads there, every tensor of it."""
    torch.save({name.replace('blocks.0.', 'blocks.0._orig_mod.'): t for name, t in state.items()}, tmp_path / 'a.pth')
    convert(tmp_path / 'a.pth', tmp_path / 'b.pth', 'timm')
    check_timm(torch.load(tmp_path / 'b.pth', weights_only=True), SETTINGS)
    found = torch.load(tmp_path / 'b.pth', weights_only=True)
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize('layout', ['timm', 'mmadclr', 'dino', 'mmpretrain', 'mmseg'])
def test_detectors_without_a_final_norm_are_refused_as_by_export(layout, state, tmp_path):
    torch.save({name: tensor for name, tensor in state.items() if not name.startswith('norm.')}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'a\.pth: the backbone has a class token but no final norm'):
        convert(tmp_path / 'a.pth', tmp_path / 'b.pth', layout, num_heads=3)
    assert not (tmp_path / 'b.pth').exists()


def test_a_backbone_is_converted_by_its_prefix(state, tmp_path):
    other = {name: -tensor for name, tensor in state.items()}
    torch.save({'left': state, 'right': {f'module.{name}': tensor for name, tensor in other.items()}}, tmp_path / 'a.pth')
    convert(tmp_path / 'a.pth', tmp_path / 'b.pth', 'timm', prefix='right')
    found = torch.load(tmp_path / 'b.pth', weights_only=True)
    assert all(torch.equal(found[name], tensor) for name, tensor in other.items())
