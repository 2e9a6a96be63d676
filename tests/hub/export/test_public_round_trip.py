"""Public backbones go from their official names through every library and come back bit for bit."""

import json

import pytest
import timm
import torch
import transformers
from public_backbones import ARCH, DINOV3, FAMILIES, official, randomize, timm_eva, timm_plain, transformers_model
from safetensors.torch import load_file

from mmadclr.checkpoint.loading import attention_facts
from mmadclr.hub.conversion import convert
from mmadclr.hub.export import FORMATS, CardText, export_backbone
from mmadclr.hub.export.eva import eva_recipe
from mmadclr.hub.opening import open_backbone, rotary_positions
from mmadclr.models.backbones.query_vit import QueryViT

families = pytest.mark.parametrize('family', FAMILIES)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def build(family: str, rounded: bool = True) -> QueryViT:
    torch.manual_seed(0)
    options = FAMILIES[family]
    ratio = dict(mlp_ratio=8 / 3) if 'ffn' in options else {}  # the one that transformers' DINOv2 knows
    model = randomize(QueryViT({**ARCH, **ratio}, img_size=32, **options))
    if model.rope is not None and rounded:
        model.rope.periods.copy_(model.rope.periods.bfloat16())  # as published files have them
    return model


def assert_same(found, expected):
    got, want = found.model.state_dict(), expected.model.state_dict()
    assert got.keys() == want.keys()
    assert [name for name, tensor in want.items() if not torch.equal(got[name], tensor)] == []
    assert found[1:] == expected[1:]


@pytest.mark.long
@families
def test_there_and_back_again(family, tmp_path):
    torch.save(official(build(family)), tmp_path / 'official.pth')
    convert(tmp_path / 'official.pth', tmp_path / 'ours.pth', 'mmadclr', img_size=32)
    original = open_backbone(tmp_path / 'ours.pth')
    assert original.img_size == (32, 32)
    source = tmp_path / 'ours.pth'
    for to in ('timm', 'hf', 'safetensors', 'hf', 'timm'):
        target = tmp_path / f'{source.name}-{to}'
        export_backbone(source, target, to)
        assert_same(open_backbone(target), original)
        source = target
    convert(source, tmp_path / 'back.pth', 'mmadclr')
    assert_same(open_backbone(tmp_path / 'back.pth'), original)


@families
@pytest.mark.parametrize('to', ['timm', 'hf'])
def test_the_library_computes_the_same(family, to, tmp_path):
    """At another size than its own if positions allow it; with rounded periods, up to the rounding."""
    model = build(family, rounded=False)
    torch.save(official(model), tmp_path / 'official.pth')
    export_backbone(tmp_path / 'official.pth', tmp_path / 'out', to)
    size = (32, 32) if model.pos_embed is not None and model.reg_token is None else (24, 48)
    images = torch.randn(2, 3, *size)
    cls, patches = FORMATS[to].load(tmp_path / 'out')(images)
    output = model(images)
    torch.testing.assert_close(cls, output.cls, rtol=0, atol=1e-5)
    torch.testing.assert_close(patches, output.patches, rtol=0, atol=1e-5)


@families
def test_models_of_the_libraries_come_back_to_them(family, tmp_path):
    """From each library's own model into the other's; what comes out has the library's class and output."""
    model = build(family, rounded=False)
    transformers_model(model).save_pretrained(tmp_path / 'hf')
    theirs = timm_eva(model) if model.rope is not None else timm_plain(model)
    torch.save(theirs.state_dict(), tmp_path / 'timm.pth')
    images = torch.randn(2, 3, 32, 32)
    for source in ('hf', 'timm.pth'):
        export_backbone(tmp_path / source, tmp_path / f'{source}-timm', 'timm')
        export_backbone(tmp_path / source, tmp_path / f'{source}-hf', 'hf')
        eva = timm.create_model(f'local-dir:{tmp_path / f"{source}-timm"}', pretrained=True).eval()
        hf = transformers.AutoModel.from_pretrained(tmp_path / f'{source}-hf').eval()
        assert type(eva).__name__ == ('Eva' if model.rope is not None else 'VisionTransformer')
        want = theirs.forward_features(images)
        torch.testing.assert_close(eva.forward_features(images), want, rtol=0, atol=1e-5)
        torch.testing.assert_close(hf(images).last_hidden_state, want, rtol=0, atol=1e-5)


@families
def test_transformers_would_write_the_same_folder(family, tmp_path):
    """Names, shapes and config; its ViT adds a pooler, and integers are integers, which version 5 demands."""
    torch.save(official(build(family)), tmp_path / 'official.pth')
    convert(tmp_path / 'official.pth', tmp_path / 'ours.pth', 'mmadclr', img_size=32)
    export_backbone(tmp_path / 'ours.pth', tmp_path / 'ours', 'hf')
    transformers.AutoModel.from_pretrained(tmp_path / 'ours').save_pretrained(tmp_path / 'theirs')
    shapes, configs = [], []
    for folder in ('ours', 'theirs'):
        state = load_file(tmp_path / folder / 'model.safetensors')
        shapes.append({name: tensor.shape for name, tensor in state.items() if not name.startswith('pooler.')})
        configs.append(json.loads((tmp_path / folder / 'config.json').read_text()))
    assert shapes[0] == shapes[1]
    assert configs[0] == configs[1]
    assert 'mlp_ratio' not in configs[0] or isinstance(configs[0]['mlp_ratio'], int)


@pytest.mark.parametrize('size', ['small', 'small_plus', 'base', 'large', 'huge_plus'])
def test_sizes_of_timm_keep_its_names(size, tmp_path):
    """Of one block, since names depend on the depth as well: checked on the recipe alone."""
    with torch.device('meta'):
        model = QueryViT(f'vit_{size}_patch16_dinov3', img_size=256, rope=True)
    model.rope = rotary_positions(
        dict(arch=dict(embed_dim=model.embed_dim, num_heads=model.blocks[0].attn.num_heads), rope={})
    )
    recipe = eva_recipe(model)
    assert (recipe.name, recipe.is_exact) == (f'vit_{size}_patch16_dinov3_qkvb', True)
    with torch.device('meta'):
        shapes = [
            {name: tensor.shape for name, tensor in timm.create_model(recipe.name, **arguments).state_dict().items()}
            for arguments in (recipe.options, recipe.arguments)
        ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize('to', ['timm', 'hf', 'safetensors'])
def test_rounded_periods_are_told(to, tmp_path):
    torch.save(official(build('dinov3')), tmp_path / 'official.pth')
    export_backbone(tmp_path / 'official.pth', tmp_path / 'out', to)
    card = (tmp_path / 'out' / 'README.md').read_text()
    assert 'periods of its rotary positions rounded to bfloat16' in card
    own = json.loads((tmp_path / 'out' / 'config.json').read_text())['mmadclr']
    assert torch.equal(torch.tensor(own['rope_periods']), build('dinov3').rope.periods)
    torch.save(official(build('dinov3', rounded=False)), tmp_path / 'exact.pth')
    export_backbone(tmp_path / 'exact.pth', tmp_path / 'exact', to)
    assert 'rounded' not in (tmp_path / 'exact' / 'README.md').read_text()


def own_file(path, **options):
    """A file of ours, with what its tensors do not show."""
    model = randomize(QueryViT(ARCH, img_size=32, **options))
    about = dict(img_size=(32, 32), pos_embed_resize=model.pos_embed_resize, **attention_facts(model))
    state = {f'teacher.backbone.{name}': tensor for name, tensor in model.state_dict().items()}
    torch.save(dict(state_dict=state, meta=dict(architecture={'a': 3}, backbone=about)), path)
    return model


OWN = {
    'eps': DINOV3 | dict(norm_eps=1e-3),
    'usual eps': DINOV3 | dict(norm_eps=1e-6),
    'base': DINOV3 | dict(rope=dict(base=20.0)),
    'periods': DINOV3 | dict(rope=dict(min_period=0.5, max_period=30.0)),
    'longer side': DINOV3 | dict(rope=dict(normalize_coords='max')),
    'biases of keys': DINOV3 | dict(qkv_bias=True),
    'no biases': dict(qkv_bias=False),
    'masked biases': dict(qkv_bias='qv'),
    'gates': dict(ffn='swiglu'),
    'no registers': DINOV3 | dict(reg_tokens=0, layer_scale=None),
}
UNSUPPORTED = {
    ('eps', 'timm'): 'norms of this backbone have eps=0.001',
    ('usual eps', 'timm'): 'norms of this backbone have eps=1e-06',
    ('biases of keys', 'timm'): "timm's DINOv3 has no bias of keys",
    **{(kind, to): 'by a base alone' for kind in ('periods', 'longer side') for to in ('timm', 'hf')},
}


@pytest.mark.parametrize('to', ['timm', 'hf'])
@pytest.mark.parametrize('kind', OWN)
def test_what_our_own_files_record_is_exported_or_refused(kind, to, tmp_path):
    model, images = own_file(tmp_path / 'a.pth', **OWN[kind]), torch.randn(2, 3, 32, 32)
    opened = open_backbone(tmp_path / 'a.pth', num_heads=3)
    assert opened.origin == {}
    torch.testing.assert_close(opened.model(images).patches, model(images).patches, rtol=0, atol=1e-6)
    if (kind, to) in UNSUPPORTED:
        with pytest.raises(ValueError, match=rf'a\.pth: .*{UNSUPPORTED[kind, to]}'):
            export_backbone(tmp_path / 'a.pth', tmp_path / 'out', to, num_heads=3)
        assert not (tmp_path / 'out').exists()
        return
    export_backbone(tmp_path / 'a.pth', tmp_path / 'out', to, num_heads=3)
    _, patches = FORMATS[to].load(tmp_path / 'out')(images)
    torch.testing.assert_close(patches, model(images).patches, rtol=0, atol=2e-5)
    back = open_backbone(tmp_path / 'out')
    assert back.settings == opened.settings
    assert back.origin == {}
    torch.testing.assert_close(back.model(images).patches, model(images).patches, rtol=0, atol=1e-6)


@pytest.mark.parametrize('to', ['onnx', 'torchscript'])
def test_programs_have_no_rotary_positions(to, tmp_path):
    torch.save(official(build('dinov3')), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'a\.pth: the formats onnx and torchscript do not support rotary positions'):
        export_backbone(tmp_path / 'a.pth', tmp_path / 'out', to)


# --- licenses ------------------------------------------------------------------------------------------------------------


def test_the_card_says_what_the_license_demands(tmp_path):
    torch.save(official(build('dinov3')), tmp_path / 'dinov3.pth')
    export_backbone(tmp_path / 'dinov3.pth', tmp_path / 'out', 'timm', text=CardText(license='mit'))
    card = (tmp_path / 'out' / 'README.md').read_text()
    assert 'license: other\nlicense_name: dinov3-license\nlicense_link: LICENSE.md\n' in card
    assert 'license: "mit"' not in card
    assert '## License' in card
    assert 'with a copy of it' in card
    assert '`dinov3.pth`' in card
    assert 'text of the DINOv3 License' in (tmp_path / 'out' / 'LICENSE.md').read_text()


def test_permissive_licenses_need_no_text(tmp_path):
    torch.save(official(build('dinov2')), tmp_path / 'a.pth')
    export_backbone(tmp_path / 'a.pth', tmp_path / 'out', 'hf')
    card = (tmp_path / 'out' / 'README.md').read_text()
    assert 'license: "apache-2.0"' in card
    assert '## License' not in card
    assert not (tmp_path / 'out' / 'LICENSE.md').exists()
    own_file(tmp_path / 'b.pth')
    export_backbone(tmp_path / 'b.pth', tmp_path / 'own', 'hf', num_heads=3)
    assert '| license | not given |' in (tmp_path / 'own' / 'README.md').read_text()
