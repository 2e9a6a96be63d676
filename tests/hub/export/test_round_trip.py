"""Folders that were exported come back as they went out, and models of transformers go through."""

import json

import pytest
import torch
import transformers
from backbones import VARIANTS, build_backbone
from safetensors.torch import load_file

from mmadclr.hub.conversion import convert
from mmadclr.hub.export import FORMATS, export_backbone
from mmadclr.hub.opening import open_backbone

FOR_TRANSFORMERS = [name for name in VARIANTS if name != 'selfpatch']  # which has no model there
COMMON = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8)


def assert_same(found, expected):
    """Bit for bit, with everything around the tensors."""
    got, want = found.model.state_dict(), expected.model.state_dict()
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in want.items())
    assert found[1:] == expected[1:]


@pytest.mark.parametrize('part', ['', 'model.safetensors'])
@pytest.mark.parametrize('variant', FOR_TRANSFORMERS)
def test_what_goes_to_transformers_comes_back(variant, part, checkpoint, tmp_path):
    file = checkpoint(build_backbone(variant))
    export_backbone(file, tmp_path / 'hf', 'hf')
    assert_same(open_backbone(tmp_path / 'hf' / part), open_backbone(file))


@pytest.mark.parametrize('layout', ['mmadclr', 'timm'])
@pytest.mark.parametrize('variant', FOR_TRANSFORMERS)
def test_it_is_converted_back(variant, layout, checkpoint, tmp_path):
    file = checkpoint(build_backbone(variant))
    export_backbone(file, tmp_path / 'hf', 'hf')
    convert(tmp_path / 'hf', tmp_path / 'back.pth', layout, num_heads=3)
    content = torch.load(tmp_path / 'back.pth', weights_only=True)
    prefix = 'teacher.backbone.' if layout == 'mmadclr' else ''
    state = content['state_dict'] if layout == 'mmadclr' else content
    assert state.keys() == {f'{prefix}{name}' for name in build_backbone(variant).state_dict()}
    assert all(torch.equal(state[f'{prefix}{name}'], t) for name, t in build_backbone(variant).state_dict().items())
    if layout == 'mmadclr':
        assert_same(open_backbone(tmp_path / 'back.pth'), open_backbone(file))


@pytest.mark.parametrize('variant', FOR_TRANSFORMERS)
def test_a_second_export_is_the_first(variant, checkpoint, tmp_path):
    export_backbone(checkpoint(build_backbone(variant)), tmp_path / 'one', 'hf')
    export_backbone(tmp_path / 'one', tmp_path / 'two', 'hf')
    one, two = (load_file(tmp_path / name / 'model.safetensors') for name in ('one', 'two'))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], tensor) for name, tensor in two.items())
    for name in ('config.json', 'preprocessor_config.json'):
        assert json.loads((tmp_path / 'one' / name).read_text()) == json.loads((tmp_path / 'two' / name).read_text())


@pytest.mark.parametrize('to', ['timm', 'safetensors'])
@pytest.mark.parametrize('variant', ['plain', 'not_square', 'dinov2', 'selfpatch'])
def test_folders_for_timm_come_back(variant, to, checkpoint, tmp_path):
    file = checkpoint(build_backbone(variant))
    export_backbone(file, tmp_path / 'out', to)
    found, expected = open_backbone(tmp_path / 'out'), open_backbone(file)
    if to == 'safetensors':
        assert_same(found, expected)
    assert found.settings['arch'] == expected.settings['arch']
    assert found[2:] == expected[2:]


@pytest.mark.parametrize('kind', ['ViT', 'Dinov2', 'Dinov2WithRegisters'])
def test_models_of_transformers_come_back_to_them(kind, tmp_path):
    torch.manual_seed(0)
    config = getattr(transformers, f'{kind}Config')(**COMMON)
    model = getattr(transformers, f'{kind}Model')(config)
    for name, parameter in model.named_parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
        if 'mask_token' in name:
            parameter.data.zero_()  # no part of the backbone
    model.save_pretrained(tmp_path / 'theirs')
    export_backbone(tmp_path / 'theirs', tmp_path / 'ours', 'hf')
    reloaded, images = transformers.AutoModel.from_pretrained(tmp_path / 'ours').eval(), torch.randn(2, 3, 32, 32)
    assert type(reloaded) is type(model)
    with torch.no_grad():
        got, want = (found.eval()(images).last_hidden_state for found in (reloaded, model))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    if kind != 'Dinov2WithRegisters':  # there, the position of [CLS] was added to [CLS]
        expected = {name: t for name, t in model.state_dict().items() if not name.startswith('pooler.')}
        assert all(torch.equal(reloaded.state_dict()[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize('to', ['timm', 'safetensors', 'torchscript', 'hf'])
def test_an_eps_of_its_own_goes_along_or_is_refused(to, tmp_path):
    torch.manual_seed(0)
    model = transformers.ViTModel(transformers.ViTConfig(**COMMON, intermediate_size=128, layer_norm_eps=0.1))
    model.save_pretrained(tmp_path / 'theirs')
    if to in ('timm', 'safetensors'):
        with pytest.raises(
            ValueError, match='norms of this backbone have eps=0.1, those of .*timm eps=1e-06; use one of the forma'
        ):
            export_backbone(tmp_path / 'theirs', tmp_path / 'out', to)
        assert not (tmp_path / 'out').exists()
        return
    images = torch.randn(2, 3, 32, 32)
    export_backbone(tmp_path / 'theirs', tmp_path / 'out', to)
    with torch.no_grad():
        cls, _ = FORMATS[to].load(tmp_path / 'out')(images)
        torch.testing.assert_close(cls, model.eval()(images).last_hidden_state[:, 0], rtol=0, atol=1e-5)


def test_one_of_two_networks_is_exported_by_its_prefix(checkpoint, tmp_path):
    teacher, student = build_backbone(seed=1), build_backbone(seed=2)
    file = checkpoint(teacher, student)
    export_backbone(file, tmp_path / 'out', 'safetensors', prefix='student.backbone')
    found = load_file(tmp_path / 'out' / 'model.safetensors')
    assert all(torch.equal(found[name], tensor) for name, tensor in student.state_dict().items())
    assert '`ours.pth` (tensors below `student.backbone`), sha256' in (tmp_path / 'out' / 'README.md').read_text()
