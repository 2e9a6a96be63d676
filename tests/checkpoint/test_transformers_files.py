"""Models of transformers go in: the tokens are theirs, from files and folders, whole and in shards."""

import json
import re

import pytest
import torch
import transformers
from safetensors.torch import save_file

from mmadclr.api import load_backbone
from mmadclr.checkpoint.weights import load_weights, read_backbone
from mmadclr.hub.conversion import convert
from mmadclr.hub.opening import open_backbone
from mmadclr.models.backbones import DenseViT

COMMON = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8)
MODELS = {
    'vit': ('ViT', dict(intermediate_size=100)),
    'vit, eps': ('ViT', dict(intermediate_size=128, layer_norm_eps=1e-3)),
    'vit, no biases': ('ViT', dict(intermediate_size=128, qkv_bias=False)),
    'vit, oblong': ('ViT', dict(intermediate_size=128, image_size=[32, 48])),
    'mae': ('ViTMAE', dict(intermediate_size=128, mask_ratio=0.0)),
    'msn': ('ViTMSN', dict(intermediate_size=128)),
    'dinov2': ('Dinov2', dict(mlp_ratio=3)),
    'dinov2, one channel a head': ('Dinov2', dict(num_attention_heads=64)),
    'registers': ('Dinov2WithRegisters', dict(num_register_tokens=3)),
    'dinov3': ('DINOv3ViT', dict(num_register_tokens=2, intermediate_size=128)),
}
NATIVE, OTHERS = (32, 32), [(32, 48), (48, 64), (16, 16)]


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def build(kind, task='Model'):
    """Random weights, all of which move the tokens."""
    name, settings = MODELS[kind]
    torch.manual_seed(0)
    model = getattr(transformers, f'{name}{task}')(getattr(transformers, f'{name}Config')(**{**COMMON, **settings})).eval()
    for name, parameter in model.named_parameters():
        parameter.add_((0.5 if 'layer_scale' in name else 0.05) * torch.randn_like(parameter))
    return model


def native_size(model):
    size = model.config.image_size
    return tuple(size) if isinstance(size, list) else (size, size)


def assert_same_tokens(opened, model, size, atol=1e-5):
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    needs_resizing = type(model).__name__.startswith('ViT') and size != native_size(model)
    options = dict(interpolate_pos_encoding=True) if needs_resizing else {}
    if model.config.model_type == 'vit_mae':  # orders patches by noise, even if none is masked
        patches = size[0] * size[1] // COMMON['patch_size'] ** 2
        options['noise'] = torch.arange(patches).expand(2, -1) / patches
    want = model(images, **options).last_hidden_state
    got = opened.model(images)
    prefix = opened.model.num_prefix_tokens
    torch.testing.assert_close(got.cls, want[:, 0], rtol=0, atol=atol)
    torch.testing.assert_close(got.patches, want[:, prefix:], rtol=0, atol=atol)


@pytest.mark.parametrize('form', ['safetensors', 'bin', 'shards', 'shards of bin', 'weights file', 'index'])
@pytest.mark.parametrize('kind', MODELS)
def test_folders_are_opened_with_the_same_tokens(kind, form, tmp_path):
    model = build(kind)
    whole = '10KB' if form in ('shards', 'shards of bin', 'index') else '1GB'
    model.save_pretrained(tmp_path / 'out', safe_serialization='bin' not in form, max_shard_size=whole)
    file = {'weights file': 'model.safetensors', 'index': 'model.safetensors.index.json'}.get(form, '')
    opened = open_backbone(tmp_path / 'out' / file)
    assert_same_tokens(opened, model, native_size(model))
    assert opened.img_size == native_size(model)
    assert opened.settings['arch']['num_heads'] == model.config.num_attention_heads


@pytest.mark.parametrize('kind', ['vit', 'dinov2', 'registers'])
@pytest.mark.parametrize('name', ['a.pth', 'b.safetensors'])
def test_state_dicts_alone_are_opened_with_the_same_tokens(kind, name, tmp_path):
    model = build(kind)
    (save_file if name.endswith('safetensors') else torch.save)(model.state_dict(), tmp_path / name)
    opened = open_backbone(tmp_path / name, num_heads=4)
    assert_same_tokens(opened, model, NATIVE)


# What transformers 5 calls the tensors of ViT and DINOv3 in memory; its folders keep the names of before.
OF_VERSION_5 = (
    (r'^layer\.', 'model.layer.'),
    (r'^encoder\.layer\.', 'layers.'),
    (r'attention\.attention\.(q|k|v)(uery|ey|alue)\.', r'attention.\1_proj.'),
    (r'attention\.output\.dense\.', 'attention.o_proj.'),
    (r'(?<=\d\.)intermediate\.dense\.', 'mlp.fc1.'),
    (r'(?<=\d\.)output\.dense\.', 'mlp.fc2.'),
)


@pytest.mark.parametrize('kind', ['vit', 'dinov3'])
@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_states_saved_in_transformers_5_are_opened_with_the_same_tokens(kind, prefix, tmp_path):
    model, state = build(kind), {}
    for name, tensor in model.state_dict().items():
        for pattern, replacement in OF_VERSION_5:
            name = re.sub(pattern, replacement, name)
        state[prefix + name] = tensor
    assert not any('layer.0' in name and not name.startswith(f'{prefix}model.') for name in state)
    torch.save(state, tmp_path / 'a.pth')
    assert_same_tokens(open_backbone(tmp_path / 'a.pth', num_heads=4), model, NATIVE)


def test_models_with_a_task_are_found_below_their_prefix(tmp_path):
    model = build('vit', 'ForImageClassification')
    model.save_pretrained(tmp_path / 'out')
    opened = open_backbone(tmp_path / 'out')
    assert_same_tokens(opened, model.vit, NATIVE)
    assert read_backbone(tmp_path / 'out').prefix == 'vit.'


def test_other_trainers_wrap_them_too(tmp_path):
    model = build('dinov2')
    names = {'teacher_backbone.module.vit.' + name: t for name, t in model.state_dict().items()}
    torch.save({'state_dict': {**names, **{f'student_{n[8:]}': -t for n, t in names.items()}}}, tmp_path / 'a.ckpt')
    assert_same_tokens(open_backbone(tmp_path / 'a.ckpt', num_heads=4), model, NATIVE)


@pytest.mark.parametrize('size', OTHERS)
def test_registers_agree_at_every_size(size, tmp_path):
    model = build('registers')
    model.save_pretrained(tmp_path / 'out')
    assert_same_tokens(open_backbone(tmp_path / 'out'), model, size)


@pytest.mark.parametrize('kind', ['vit', 'dinov2'])
def test_elsewhere_positions_are_those_of_the_training_code_and_that_is_said(kind, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('mmadclr.checkpoint.weights.print_log', lambda text, _: said.append(text))
    model = build(kind)
    model.save_pretrained(tmp_path / 'out')
    opened = open_backbone(tmp_path / 'out')
    assert opened.model.pos_embed_resize == 'dino'
    assert 'positions are resized as in DINO, which trained such weights; transformers resizes them differently' in said[0]
    with pytest.raises(AssertionError):
        assert_same_tokens(opened, model, (48, 64))


def test_what_is_no_part_of_the_backbone_is_accounted_for(tmp_path):
    build('vit').save_pretrained(tmp_path / 'vit')
    build('dinov2').save_pretrained(tmp_path / 'dinov2')
    assert sorted(read_backbone(tmp_path / 'vit').left_out) == ['pooler.dense.bias', 'pooler.dense.weight']
    assert read_backbone(tmp_path / 'dinov2').left_out == ['embeddings.mask_token']


def test_queries_keys_or_values_that_are_missing_are_named(tmp_path):
    state = build('vit').state_dict()
    del state['encoder.layer.1.attention.attention.key.weight']
    torch.save(state, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'blocks\.1\.attention\.attention\.query\.weight: file .*, model -'):
        open_backbone(tmp_path / 'a.pth', num_heads=4)


def test_positions_of_another_grid_than_the_config_says_are_refused(tmp_path):
    build('vit').save_pretrained(tmp_path / 'out')
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    (tmp_path / 'out' / 'config.json').write_text(json.dumps({**config, 'image_size': 64}))
    with pytest.raises(
        ValueError, match=r'images of 64x64 pixels, .* have 64 patches of 8 pixels, but pos_embed has 16 positions'
    ):
        open_backbone(tmp_path / 'out')


@pytest.mark.parametrize(
    ('settings', 'mean', 'std'),
    [
        (dict(image_mean=[0.5, 0.4, 0.3], image_std=[0.1, 0.2, 0.3]), (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)),
        (dict(do_normalize=False, image_mean=[0.5] * 3, image_std=[0.1] * 3), (0, 0, 0), (1, 1, 1)),
        (dict(image_mean=[1] * 3, image_std=[0.5] * 3, rescale_factor=2 / 255), (0.5,) * 3, (0.25,) * 3),
    ],
)
def test_images_are_prepared_as_the_folder_says(settings, mean, std, tmp_path):
    build('vit').save_pretrained(tmp_path / 'out')
    processor = transformers.BitImageProcessor(do_resize=False, do_center_crop=False, **settings)
    processor.save_pretrained(tmp_path / 'out')
    opened = open_backbone(tmp_path / 'out')
    assert opened.mean == pytest.approx(mean)
    assert opened.std == pytest.approx(std)
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    want = processor(pixels, return_tensors='pt')['pixel_values'][0]
    got = (pixels / 255 - torch.tensor(opened.mean)[:, None, None]) / torch.tensor(opened.std)[:, None, None]
    torch.testing.assert_close(got, want.float(), rtol=0, atol=1e-5)


def test_three_lines_take_a_folder(tmp_path):
    build('registers').save_pretrained(tmp_path / 'out')
    model, _ = load_backbone(tmp_path / 'out')
    assert model.reg_token.shape == (1, 3, 64)


def test_detectors_start_from_a_folder(tmp_path):
    build('vit, eps').save_pretrained(tmp_path / 'out')
    arch = dict(embed_dim=64, depth=2, num_heads=4, patch_size=8, mlp_ratio=2)
    detector = DenseViT(arch, img_size=48, out_indices=(1,))
    report = load_weights(detector, tmp_path / 'out', unused=('norm.*',))
    assert (len(report.matched), report.missing, report.unexpected) == (27, [], [])
    with pytest.raises(ValueError, match=r'pretrained with 4 attention heads, not 2'):
        load_weights(DenseViT({**arch, 'num_heads': 2}, img_size=48, out_indices=(1,)), tmp_path / 'out', unused=('norm.*',))


def test_an_eps_that_the_target_cannot_hold_is_listed(tmp_path):
    model = build('vit, eps')
    model.save_pretrained(tmp_path / 'out')
    lost = convert(tmp_path / 'out', tmp_path / 'a.pth', 'timm').lost
    assert lost[-1] == 'eps of the norms, 0.001: set it instead of 1e-06 where you load the file'
    convert(tmp_path / 'out', tmp_path / 'b.pth', 'mmadclr')
    assert_same_tokens(open_backbone(tmp_path / 'b.pth'), model, NATIVE)


@pytest.mark.parametrize('layout', ['timm', 'safetensors', 'mmpretrain', 'mmadclr'])
@pytest.mark.parametrize('kind', ['dinov2', 'vit, no biases'])
def test_they_are_converted_like_any_file(kind, layout, tmp_path):
    model = build(kind)
    model.save_pretrained(tmp_path / 'out')
    target = tmp_path / ('a.safetensors' if layout == 'safetensors' else 'a.pth')
    convert(tmp_path / 'out', target, layout)
    atol = 1e-5 if kind == 'dinov2' or layout == 'mmadclr' else 1e-3  # eps
    assert_same_tokens(open_backbone(target, num_heads=4), model, NATIVE, atol)
