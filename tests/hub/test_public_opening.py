"""Files of public backbones under all their names: features are those of the library's own model."""

import numpy as np
import pytest
import timm
import torch
import transformers
from golden_files import GoldenFolder
from places import DATA
from public_backbones import ARCH, DINOV3, FAMILIES, official, randomize, timm_eva, timm_plain, transformers_model

from mmadclr.checkpoint.layouts import find_backbone
from mmadclr.checkpoint.weights import load_weights
from mmadclr.hub.opening import open_backbone
from mmadclr.models.backbones import DenseViT
from mmadclr.models.backbones.query_vit import QueryViT

FORMS = ('official', 'timm', 'transformers', 'folder', 'shards')
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr('mmadclr.checkpoint.weights.print_log', lambda text, _: lines.append(text))
    return lines


def build(family: str, **options) -> QueryViT:
    torch.manual_seed(0)
    options = FAMILIES[family] | options
    ratio = dict(mlp_ratio=8 / 3) if 'ffn' in options else {}
    return randomize(QueryViT({**ARCH, **ratio}, img_size=32, **options))


def library_model(model: QueryViT):
    return timm_eva(model) if model.rope is not None else timm_plain(model)


def write(model: QueryViT, form: str, folder) -> str:
    """The model in a form of ``FORMS``."""
    if form in ('folder', 'shards'):
        transformers_model(model).save_pretrained(folder / form, max_shard_size='1GB' if form == 'folder' else '200KB')
        return str(folder / form)
    makes = dict(official=official, timm=lambda m: library_model(m).state_dict())
    make = makes.get(form, lambda m: transformers_model(m).state_dict())
    torch.save(make(model), folder / f'{form}.pth')
    return str(folder / f'{form}.pth')


def tokens(model, images) -> torch.Tensor:
    output = model(images)
    return torch.cat((output.cls[:, None], output.patches), dim=1)


def theirs(model: QueryViT, images) -> torch.Tensor:
    """Class token and patches of the library's model of these weights."""
    found = library_model(model).forward_features(images)
    return torch.cat((found[:, :1], found[:, model.num_prefix_tokens :]), dim=1)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('family', FAMILIES)
def test_every_family_under_every_name(family, form, tmp_path):
    model, images = build(family), torch.randn(2, 3, 32, 32)
    opened = open_backbone(write(model, form, tmp_path))
    torch.testing.assert_close(tokens(opened.model, images), theirs(model, images), rtol=0, atol=TOLERANCE)
    assert opened.settings['arch']['num_heads'] == 3
    if 'reg_tokens' in FAMILIES[family]:
        wide = torch.randn(1, 3, 24, 56)
        torch.testing.assert_close(tokens(opened.model, wide), theirs(model, wide), rtol=0, atol=TOLERANCE)
    family = opened.origin.get('family')
    assert family == (
        'dinov3' if model.rope is not None else None if (form, model.reg_token) == ('timm', None) else 'dinov2'
    )


def halves_exchanged(model):
    """The rows of gate and value exchanged."""
    for block in model.blocks:
        for tensor in (block.mlp.fc1.weight, block.mlp.fc1.bias):
            tensor.copy_(torch.cat(tensor.chunk(2)[::-1]))


def one_token_less(model):
    model.num_prefix_tokens -= 1


def turned(model):
    model.rope.forward = _transposed(model.rope.forward)


def _transposed(forward):
    """Width before height."""

    def changed(grid, blocks, before, total):
        found = forward(grid, blocks, before, total)
        half = found.shape[-1] // 2
        return torch.cat((found[..., half:], found[..., :half]), dim=-1)

    return changed


MUTATIONS = {
    'gates': halves_exchanged,
    'prefix': one_token_less,
    'height first': turned,
    'eps': lambda model: [setattr(m, 'eps', 1e-3) for m in model.modules() if isinstance(m, torch.nn.LayerNorm)],
    'periods': lambda model: model.rope.periods.mul_(1.05),
}


@pytest.mark.parametrize('mutation', MUTATIONS)
def test_a_changed_model_is_found(mutation, tmp_path):
    """That the comparison above sees each of the settings that no tensor shows."""
    model, images = build('dinov3 swiglu'), torch.randn(2, 3, 24, 40)
    opened = open_backbone(write(model, 'official', tmp_path))
    expected = theirs(model, images)
    torch.testing.assert_close(tokens(opened.model, images), expected, rtol=0, atol=TOLERANCE)
    MUTATIONS[mutation](opened.model)
    found = tokens(opened.model, images)
    assert found.shape != expected.shape or (found - expected).abs().max() > 10 * TOLERANCE


# --- DINOv3's own tensors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('mask', ['zero', 'nan', 'ones', 'regular'])
def test_masks_of_biases(mask, tmp_path):
    """Zero in published files of the distilled models, NaN in those of the first version; keys never have a bias."""
    model = build('dinov3')
    state = official(model)
    for name in [name for name in state if name.endswith('bias_mask')]:
        values = dict(zero=torch.zeros(576), nan=torch.full((576,), float('nan')), ones=torch.ones(576))
        state[name] = values.get(mask, state[name])
    torch.save(state, tmp_path / 'a.pth')
    opened = open_backbone(tmp_path / 'a.pth')
    for block, own in zip(opened.model.blocks, model.blocks, strict=True):
        expected = own.attn.qkv.effective_bias() if mask != 'zero' else torch.zeros(576)
        assert torch.equal(block.attn.qkv.bias, expected)
    assert opened.settings['qkv_bias'] == 'qv'


def test_a_mask_of_some_channels_is_applied(tmp_path):
    model = build('dinov3')
    state = official(model)
    state['blocks.1.attn.qkv.bias_mask'][:7] = 0
    torch.save(state, tmp_path / 'a.pth')
    bias = open_backbone(tmp_path / 'a.pth').model.blocks[1].attn.qkv.bias
    assert torch.equal(bias[7:192], model.blocks[1].attn.qkv.bias[7:192])
    assert not bias[:7].any()


def test_periods_of_the_file_are_kept(tmp_path):
    model = build('dinov3')
    state = official(model)
    state['rope_embed.periods'] = state['rope_embed.periods'].bfloat16()
    state |= {f'local_cls_norm.{part}': torch.full((192,), 7.0) for part in ('weight', 'bias')}
    torch.save(state, tmp_path / 'a.pth')
    opened = open_backbone(tmp_path / 'a.pth')
    assert opened.model.rope.periods.dtype == torch.float32
    assert torch.equal(opened.model.rope.periods, state['rope_embed.periods'].float())
    assert opened.settings['rope'] == {}
    assert set(find_backbone(torch.load(tmp_path / 'a.pth', weights_only=True)).left_out) == {
        'mask_token', 'local_cls_norm.weight', 'local_cls_norm.bias',
    }  # fmt: skip


def test_periods_tell_the_number_of_heads(tmp_path):
    torch.manual_seed(0)
    model = randomize(QueryViT(dict(embed_dim=48, depth=1, num_heads=3, patch_size=8), img_size=32, **DINOV3))
    torch.save(official(model), tmp_path / 'a.pth')
    assert open_backbone(tmp_path / 'a.pth').settings['arch']['num_heads'] == 3
    with pytest.raises(ValueError, match=r'rope\.periods: file \(4,\), model \(6,\)'):
        open_backbone(tmp_path / 'a.pth', num_heads=2)


def test_other_periods_are_described(tmp_path):
    model = build('dinov3', rope=dict(min_period=0.5, max_period=20.0))
    torch.save(official(model), tmp_path / 'a.pth')
    opened = open_backbone(tmp_path / 'a.pth')
    assert opened.settings['rope'] == dict(min_period=0.5, max_period=20.0)
    assert torch.equal(opened.model.rope.periods, model.rope.periods)


def test_biases_of_keys_are_read_where_transformers_has_them(tmp_path):
    torch.manual_seed(0)
    config = transformers.DINOv3ViTConfig(
        hidden_size=192, intermediate_size=256, num_hidden_layers=2, num_attention_heads=3, image_size=32, patch_size=8,
        num_register_tokens=2, key_bias=True, rope_theta=30.0, layer_norm_eps=1e-4,
    )  # fmt: skip
    model = randomize(transformers.DINOv3ViTModel(config))
    model.save_pretrained(tmp_path / 'out')
    opened, images = open_backbone(tmp_path / 'out'), torch.randn(1, 3, 32, 48)
    want = model(images).last_hidden_state
    torch.testing.assert_close(opened.model(images).patches, want[:, 3:], rtol=0, atol=TOLERANCE)
    assert opened.settings['rope'] == dict(base=30.0)
    assert opened.settings.get('qkv_bias', True) is True


def test_gates_with_another_function_are_refused(tmp_path):
    config = transformers.DINOv3ViTConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1, use_gated_mlp=True
    )
    transformers.DINOv3ViTModel(config).save_pretrained(tmp_path / 'out')
    with pytest.raises(ValueError, match="hidden_act 'gelu' is not supported; it must be silu in gated MLPs"):
        open_backbone(tmp_path / 'out')


def test_folders_of_timm_name_the_architecture(tmp_path):
    """timm's own folder says heads, eps and rotary positions by the name of its architecture."""
    torch.manual_seed(0)
    sizes = dict(embed_dim=48, depth=2, num_heads=3, num_reg_tokens=2, rope_temperature=40.0)
    model = randomize(timm.create_model('vit_small_patch16_dinov3_qkvb', num_classes=0, global_pool='token', **sizes))
    timm.models.save_for_hf(model, tmp_path / 'out', model_args=sizes, safe_serialization=True)
    opened, images = open_backbone(tmp_path / 'out'), torch.randn(1, 3, 64, 96)
    want = model.forward_features(images)
    torch.testing.assert_close(opened.model(images).patches, want[:, 3:], rtol=0, atol=TOLERANCE)
    assert opened.settings['norm_eps'] == 1e-5
    assert opened.img_size == (256, 256)
    assert opened.origin['license'] == 'dinov3-license'
    assert opened.origin['source'] == 'timm/vit_small_patch16_dinov3_qkvb.lvd1689m'


def test_normalization_of_timm_goes_with_the_weights(tmp_path):
    for name, mean, license in (
        ('vit_large_patch16_dinov3.sat493m', (0.43, 0.411, 0.296), 'dinov3-license'),
        ('vit_small_patch16_224.augreg_in21k', (0.5,) * 3, 'apache-2.0'),
        ('vit_base_patch16_224.mae', (0.485, 0.456, 0.406), 'cc-by-nc-4.0'),
    ):
        sizes = dict(embed_dim=64, depth=1, num_heads=1)
        model = timm.create_model(name, num_classes=0, **sizes)
        timm.models.save_for_hf(model, tmp_path / name, model_args=dict(sizes, num_classes=0), safe_serialization=True)
        opened = open_backbone(tmp_path / name)
        assert opened.mean == pytest.approx(mean)
        assert (opened.origin['license'], opened.origin['source']) == (license, f'timm/{name}')


# --- other models --------------------------------------------------------------------------------------------------------


def test_distilled_deit_of_timm(tmp_path):
    torch.manual_seed(0)
    model = randomize(timm.create_model('deit_tiny_distilled_patch16_224', num_classes=0, depth=2, img_size=64))
    torch.save({'model': model.state_dict()}, tmp_path / 'a.pth')
    opened, images = open_backbone(tmp_path / 'a.pth'), torch.randn(2, 3, 64, 64)
    want = model.forward_features(images)
    torch.testing.assert_close(opened.model(images).cls, want[:, 0], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(opened.model(images).patches, want[:, 2:], rtol=0, atol=TOLERANCE)
    assert opened.settings['pos_embed_resize'] == 'dino'
    assert opened.origin['license'] == 'apache-2.0'


def test_deit_of_transformers(tmp_path):
    torch.manual_seed(0)
    sizes = dict(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    model = randomize(transformers.DeiTModel(transformers.DeiTConfig(**sizes), add_pooling_layer=False))
    model.save_pretrained(tmp_path / 'out')
    opened, images = open_backbone(tmp_path / 'out'), torch.randn(2, 3, 32, 32)
    want = model(images).last_hidden_state
    torch.testing.assert_close(opened.model(images).cls, want[:, 0], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(opened.model(images).patches, want[:, 2:], rtol=0, atol=TOLERANCE)


def test_deit_iii_under_its_original_names(tmp_path):
    torch.manual_seed(0)
    model = randomize(timm.create_model('deit3_small_patch16_224', num_classes=0, depth=2, img_size=64))
    names = {
        name.replace('.ls1.gamma', '.gamma_1').replace('.ls2.gamma', '.gamma_2'): t for name, t in model.state_dict().items()
    }
    torch.save({'model': names}, tmp_path / 'a.pth')
    images = torch.randn(1, 3, 64, 64)
    found = open_backbone(tmp_path / 'a.pth').model(images)
    torch.testing.assert_close(found.patches, model.forward_features(images)[:, 1:], rtol=0, atol=TOLERANCE)


def test_gates_of_mmpretrain(tmp_path):
    model = build('dinov2 swiglu')
    names = {}
    for name, tensor in model.state_dict().items():
        new = name.replace('blocks.', 'layers.').replace('.mlp.fc1.', '.ffn.w12.').replace('.mlp.fc2.', '.ffn.w3.')
        new = new.replace('.ls1.gamma', '.attn.gamma1.weight').replace('.ls2.gamma', '.ffn.gamma2.weight')
        names['backbone.' + new.replace('patch_embed.proj.', 'patch_embed.projection.')] = tensor
    torch.save(dict(meta={}, state_dict=names), tmp_path / 'a.pth')
    images = torch.randn(1, 3, 32, 32)
    found = tokens(open_backbone(tmp_path / 'a.pth').model, images)
    torch.testing.assert_close(found, theirs(model, images), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize('family', ['registers', 'dinov3 swiglu'])
def test_training_checkpoints_with_blocks_in_chunks(family, tmp_path):
    """DINOv2's and DINOv3's teacher_checkpoint.pth; the heads beside it are no backbone."""
    model = build(family)
    state = {
        name.replace('blocks.1.', 'blocks.1.1.').replace('blocks.0.', 'blocks.0.0.'): t
        for name, t in official(model).items()
    }
    heads = {'dino_head.mlp.0.weight': torch.zeros(2, 192), 'ibot_head.last_layer.weight': torch.zeros(2, 2)}
    torch.save({'teacher': {**{f'backbone.{name}': t for name, t in state.items()}, **heads}}, tmp_path / 'teacher.pth')
    images = torch.randn(1, 3, 32, 32)
    found = tokens(open_backbone(tmp_path / 'teacher.pth').model, images)
    torch.testing.assert_close(found, theirs(model, images), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize('variant', ['plain', 'register', 'swiglu'])
def test_published_numbers_from_published_names(variant, tensors, tmp_path):
    """Numbers of DINOv2's own code, from the names of its own files."""
    modern = GoldenFolder(DATA / 'golden_modern')
    arrays = modern('dinov2_vit')
    state = tensors(arrays, 'params/')
    if variant == 'swiglu':
        state = {name: tensor for name, tensor in state.items() if '.mlp.' not in name}
    torch.save(state | tensors(arrays, f'{variant}/params/'), tmp_path / 'a.pth')
    opened = open_backbone(tmp_path / 'a.pth', num_heads=arrays.config['num_heads'])
    for size in modern.names('dinov2_vit', f'{variant}/cls/([a-z_]+)'):
        output = opened.model(torch.from_numpy(arrays[f'image/{size}']))
        np.testing.assert_allclose(output.cls, arrays[f'{variant}/cls/{size}'], rtol=0, atol=1e-5)
        np.testing.assert_allclose(output.patches, arrays[f'{variant}/patches/{size}'], rtol=0, atol=1e-5)


# --- facts -----------------------------------------------------------------------------------------------------------------


def test_facts_replace_what_is_assumed(tmp_path, said):
    """DINOv2's default config with registers resizes as DINO, and nothing in the file says so."""
    torch.save(official(build('registers')), tmp_path / 'a.pth')
    assert open_backbone(tmp_path / 'a.pth').settings['pos_embed_resize'] == 'size'
    assert "pass facts=dict(pos_embed_resize='dino')" in said[0]
    said.clear()
    facts = dict(pos_embed_resize='dino', norm_eps=1e-3, mean=(0.5,) * 3, license='cc0-1.0')
    opened = open_backbone(tmp_path / 'a.pth', facts=facts)
    assert opened.settings['pos_embed_resize'] == 'dino'
    assert (opened.model.norm.eps, opened.mean, opened.origin['license']) == (1e-3, (0.5,) * 3, 'cc0-1.0')
    assert not any('assuming' in line for line in said)
    with pytest.raises(ValueError, match=r'a\.pth: facts: unknown eps; accepted: norm_eps, pos_embed_resize'):
        open_backbone(tmp_path / 'a.pth', facts=dict(eps=1))
    with pytest.raises(ValueError, match=r"a\.pth: pos_embed_resize='x' must be one of"):
        open_backbone(tmp_path / 'a.pth', facts=dict(pos_embed_resize='x'))


@pytest.mark.parametrize('form', ['timm', 'official'])
def test_absent_biases_and_periods_are_filled_into_a_configured_backbone(form, tmp_path):
    model = build('dinov3 no bias')
    init = dict(type='Pretrained', checkpoint=write(model, form, tmp_path))
    task = DenseViT(ARCH, img_size=32, out_indices=(1,), out_norm=True, init_cfg=init, **DINOV3).eval()
    task.init_weights()
    images = torch.randn(1, 3, 32, 32)
    found = task(images)[0].flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, theirs(model, images)[:, 1:], rtol=0, atol=TOLERANCE)
    assert task.weights_origin['family'] == 'dinov3'


def test_rotary_positions_of_another_kind_are_not_mixed(tmp_path):
    file = write(build('dinov3'), 'timm', tmp_path)
    backbone = QueryViT(ARCH, img_size=32, **DINOV3 | dict(rope=dict(normalize_coords='max')))
    with pytest.raises(ValueError, match="normalize_coords='separate' of the weights differs from 'max' of the backbone"):
        load_weights(backbone, file)


# --- refusals ------------------------------------------------------------------------------------------------------------


def test_detectors_are_opened_with_a_word_about_it(tmp_path, said):
    model = build('dinov2')
    state = {f'backbone.{name}': tensor for name, tensor in model.state_dict().items()}
    torch.save(dict(state_dict={**state, 'rpn_head.rpn_conv.weight': torch.zeros(1)}, meta={}), tmp_path / 'a.pth')
    open_backbone(tmp_path / 'a.pth')
    assert (
        "the file also has rpn_head: it is a detector or segmentor, and the backbone below 'state_dict.backbone.'" in said[0]
    )


def test_incomplete_gates_are_named(tmp_path):
    state = official(build('dinov3 swiglu'))
    del state['blocks.1.mlp.w1.weight']
    torch.save(state, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'incomplete gated MLPs \(SwiGLU\)'):
        open_backbone(tmp_path / 'a.pth')


def test_parts_of_training_runs_are_refused_with_the_way_out(tmp_path):
    torch.save({'model': {'_flat_param': torch.zeros(3)}}, tmp_path / 'model_0000099.rank_3.pth')
    with pytest.raises(ValueError, match=r'rank_3\.pth is the part of one process .*teacher_checkpoint\.pth'):
        open_backbone(tmp_path / 'model_0000099.rank_3.pth')
    folder = tmp_path / 'sharded_teacher_checkpoint'
    folder.mkdir()
    (folder / '__0_0.distcp').write_bytes(b'')
    with pytest.raises(ValueError, match=r'sharded_teacher_checkpoint is a folder with a sharded .*teacher_checkpoint'):
        open_backbone(folder)
