"""Whose weights a file holds, and what their license demands: told once, recorded, and carried on."""

import pytest
import torch
from mmengine.hooks import Hook
from public_backbones import official, randomize

from mmadclr.checkpoint import load_weights
from mmadclr.checkpoint.families import FAMILIES, LICENSES, family_of_model, license_sentence
from mmadclr.checkpoint.loading import attention_facts, described
from mmadclr.engine import Runner
from mmadclr.hub.conversion import convert
from mmadclr.hub.export import export_backbone
from mmadclr.hub.opening import open_backbone
from mmadclr.models.backbones import ClassifierViT
from mmadclr.models.backbones.query_vit import QueryViT

ARCH = dict(embed_dim=64, depth=1, num_heads=1, patch_size=8)
DINOV3 = dict(rope=True, reg_tokens=4, layer_scale=1e-5, qkv_bias='qv', norm_eps=1e-5)


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr('mmadclr.checkpoint.weights.print_log', lambda text, _: lines.append(text))
    return lines


def plain():
    return randomize(QueryViT(ARCH, img_size=32)).state_dict()


@pytest.mark.parametrize(
    ('name', 'family'),
    [
        ('facebook/dinov3-vits16-pretrain-lvd1689m', 'dinov3'),
        ('vit_small_patch16_dinov3_qkvb.eupe_lvd1689m', 'eupe'),
        ('vit_small_patch14_reg4_dinov2.lvd142m', 'dinov2'),
        ('facebook/dinov2-with-registers-small', 'dinov2'),
        ('facebook/dino-vits16', 'dino'),
        ('vit_small_patch16_224.dino', 'dino'),
        ('vit_base_patch16_224.mae', 'mae'),
        ('facebook/vit-mae-base', 'mae'),
        ('mae_pretrain_vit_base.pth', 'mae'),
        ('deit3_small_patch16_224.fb_in1k', 'deit3'),
        ('facebook/deit-small-patch16-224', 'deit'),
        ('vit_small_patch16_224.augreg_in21k_ft_in1k', 'augreg'),
        ('google/vit-base-patch16-224-in21k', 'augreg'),
        ('vit_maelstrom', None),
        ('someone/vit-b', None),
    ],
)
def test_families_by_the_names_of_models(name, family):
    assert family_of_model(name) == family


def test_every_license_of_a_family_is_known():
    assert {family.license for family in FAMILIES.values()} == LICENSES.keys()


def told(content, tmp_path, said, name='a.pth'):
    said.clear()
    torch.save(content, tmp_path / name)
    opened = open_backbone(tmp_path / name, num_heads=1)
    lines = [line for line in said if 'license' in line.lower() or 'published under' in line]
    return opened.origin, lines


def test_what_a_file_is_is_told_in_one_line(tmp_path, said):
    dinov3 = official(randomize(QueryViT(ARCH, img_size=32, **DINOV3)))
    origin, (line,) = told(dinov3, tmp_path, said)
    assert origin == dict(family='dinov3', source='a.pth', license='dinov3-license')
    assert 'a.pth: DINOv3, from a.pth: published under DINOv3 License (share these weights' in line
    assert 'with a copy of it' in line
    assert '\n' not in line
    origin, (line,) = told({'model': {**plain(), 'decoder_embed.weight': torch.zeros(2, 64)}}, tmp_path, said)
    assert (origin['family'], origin['license']) == ('mae', 'cc-by-nc-4.0')
    assert 'no commercial use' in line
    origin, (line,) = told(official(randomize(QueryViT(ARCH, img_size=32, layer_scale=1.0))), tmp_path, said)
    assert (origin['family'], origin['license']) == ('dinov2', 'apache-2.0')
    assert line.endswith('published under Apache-2.0')
    origin, (line,) = told({**plain(), 'masked_embed': torch.zeros(1, 64)}, tmp_path, said)
    assert origin['family'] == 'ibot'
    origin, (line,) = told({**dinov3, 'projectors.a.weight': torch.zeros(2)}, tmp_path, said)
    assert (origin['family'], origin['license']) == ('eupe', 'fair-noncommercial-research-license')
    origin, (line,) = told(plain(), tmp_path, said)
    assert origin == dict(source='a.pth')
    assert 'license of the weights is not recorded' in line


def test_names_of_published_files_count(tmp_path, said):
    origin, _ = told(plain(), tmp_path, said, 'mae_pretrain_vit_base.pth')
    assert origin == dict(family='mae', source='mae_pretrain_vit_base.pth', license='cc-by-nc-4.0')
    origin, _ = told(plain(), tmp_path, said, 'mae.pth')
    assert 'license' not in origin


def test_own_runs_are_nobody_elses(tmp_path, said):
    """Even with an architecture of others."""
    model = randomize(QueryViT(ARCH, img_size=32, **DINOV3))
    state = {f'teacher.backbone.{name}': tensor for name, tensor in model.state_dict().items()}
    own = dict(state_dict=state, meta=dict(architecture={'a': 1}, backbone=attention_facts(model)))
    assert told(own, tmp_path, said) == ({}, [])
    for to in ('timm', 'hf', 'safetensors'):
        export_backbone(tmp_path / 'a.pth', tmp_path / to, to)
        said.clear()
        assert open_backbone(tmp_path / to).origin == {}
        assert not any('published' in line or 'license' in line for line in said)


def test_invalid_records_are_refused(tmp_path):
    torch.save(dict(state_dict=plain(), meta=dict(backbone=dict(license=3))), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'a\.pth: license=3 must be a text'):
        open_backbone(tmp_path / 'a.pth')


def test_licenses_that_we_do_not_know_are_passed_on():
    assert license_sentence(dict(source='x', license='cc0-1.0')) == 'the weights, from x: published under cc0-1.0'


class Start(Hook):
    """Loads weights into student and teacher, as a run that starts from a public backbone does."""

    def __init__(self, file):
        self.file = file

    def before_train(self, runner):
        for part in (runner.model.student, runner.model.teacher):
            load_weights(part['backbone'], self.file)


def test_the_license_travels(small_config, tmp_path):
    """Load, train, save, resume, train, save, convert, export, open."""
    model = randomize(QueryViT(dict(embed_dim=24, depth=2, num_heads=3, patch_size=8), img_size=32, **DINOV3))
    torch.save(official(model), tmp_path / 'dinov3.pth')
    backbone = {f'model.backbone.{key}': value for key, value in DINOV3.items()}
    overrides = {**backbone, 'train_cfg.max_epochs': 1, 'model.backbone.img_size': 32}
    runner = Runner.from_cfg(small_config(overrides))
    runner.register_hook(Start(tmp_path / 'dinov3.pth'))
    runner.train()
    expected = dict(family='dinov3', source='dinov3.pth', license='dinov3-license')
    first = tmp_path / 'work' / 'epoch_1.pth'
    about = torch.load(first, weights_only=False)['meta']['backbone']
    assert {key: about[key] for key in expected} == expected
    assert (about['norm_eps'], about['qkv_bias'], about['rope']) == (1e-5, 'qv', {})
    cfg = small_config({**overrides, 'train_cfg.max_epochs': 2}, work_dir='more')
    cfg.resume, cfg.load_from = True, str(first)
    Runner.from_cfg(cfg).train()
    last = tmp_path / 'more' / 'epoch_2.pth'
    assert open_backbone(last).origin == expected
    for to in ('timm', 'hf'):
        export_backbone(last, tmp_path / to, to)
        assert open_backbone(tmp_path / to).origin == expected
        card = (tmp_path / to / 'README.md').read_text()
        assert 'license_name: dinov3-license' in card
        assert 'derive from, `dinov3.pth`, published under DINOv3 License' in card
    convert(tmp_path / 'hf', tmp_path / 'back.pth', 'mmadclr')
    assert open_backbone(tmp_path / 'back.pth').origin == expected
    assert any(entry.startswith('license, DINOv3 License') for entry in convert(last, tmp_path / 'flat.pth', 'timm').lost)


def test_random_weights_have_no_origin(tmp_path):
    torch.save(plain(), tmp_path / 'a.pth')
    model = QueryViT(ARCH, img_size=32)
    load_weights(model, tmp_path / 'a.pth')
    assert model.weights_origin == dict(source='a.pth')
    model.init_weights()
    assert model.weights_origin == {}


def test_models_of_tasks_carry_it_too(tmp_path):
    torch.save({'model': {**plain(), 'decoder_embed.weight': torch.zeros(2, 64)}}, tmp_path / 'mae.pth')
    model = torch.nn.Module()
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'mae.pth'))
    model.backbone = ClassifierViT(ARCH, img_size=32, init_cfg=init)
    model.backbone.init_weights()
    meta = described(model, object())
    assert meta['backbone'] == dict(family='mae', source='mae.pth', license='cc-by-nc-4.0')
    torch.save(dict(meta=meta, state_dict=model.state_dict()), tmp_path / 'task.pth')
    assert open_backbone(tmp_path / 'task.pth').origin == meta['backbone']
