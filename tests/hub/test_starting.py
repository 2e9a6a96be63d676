"""Pretraining from the weights of a file: both networks start as what the file is, whatever the method."""

import shutil
from pathlib import Path

import pytest
import torch
from comparisons import assert_same_state
from public_folders import SMALL_DINOV2, write_dinov3_folder, write_folder

from mmadclr.checkpoint import read_checkpoint
from mmadclr.config.findings import ConfigError
from mmadclr.engine import Runner
from mmadclr.hub.opening import open_backbone
from mmadclr.hub.starting import complete_start, read_start

METHODS = ('adclr', 'dino', 'ibot', 'selfpatch', 'pqcl', 'mocov3', 'adclr_ibot', 'adclr_mocov3')
# Crops of whole patches of 7 pixels.
SIZES = {
    'model.backbone.arch': None,
    'model.backbone.img_size': None,
    'model.backbone.drop_path_rate': 0.0,
    'train_dataloader.dataset.transform.global_size': 28,
    'train_dataloader.dataset.transform.local_size': 14,
    'train_dataloader.dataset.transform.query_size': 14,
    'train_cfg.max_epochs': 1,
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp('weights') / 'dinov2', mask_token=0.25)


@pytest.fixture
def started_config(small_config, folder):
    def make(method='dino', overrides=None, start=folder, **kwargs):
        sizes = dict(SIZES)
        if method in ('ibot', 'pqcl', 'adclr_ibot'):
            sizes['train_dataloader.dataset.transform.mask.patch_size'] = 7
        init = {'model.backbone.init_cfg': dict(type='Pretrained', checkpoint=str(start))}
        config = f'configs/demo/{method}_vittiny_shapes.py'
        cfg = small_config(sizes | init | (overrides or {}), config=config, **kwargs)
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        return cfg

    return make


@pytest.mark.parametrize('method', METHODS)
def test_both_networks_start_as_the_file(method, started_config, folder):
    runner = Runner.from_cfg(started_config(method))
    runner.model.init_weights()
    original, images = open_backbone(folder), torch.randn(2, 3, 28, 28)
    student, teacher = (network['backbone'].eval() for network in (runner.model.student, runner.model.teacher))
    for backbone in (student, teacher):
        state = {name: tensor for name, tensor in backbone.state_dict().items() if name != 'mask_token'}
        for name, tensor in state.items():
            if name != 'pos_embed' or method != 'selfpatch':
                assert torch.equal(tensor, original.model.state_dict()[name]), name
        assert {*original.model.state_dict()} - {*state} <= (
            {'cls_token', 'norm.weight', 'norm.bias'} if method == 'selfpatch' else set()
        )
        assert backbone.blocks[0].norm1.eps == 1e-5
    if method == 'selfpatch':
        return  # neither [CLS] nor final norm, hence other tokens
    with torch.no_grad():
        for got, want in zip(teacher(images)[:2], original.model(images)[:2], strict=True):
            assert torch.equal(got, want)
    assert torch.equal(runner.model.patch_features(images), original.model(images).patches)


@pytest.mark.parametrize('method', METHODS)
def test_a_run_starts_and_keeps_what_the_file_says(method, started_config):
    runner = Runner.from_cfg(started_config(method))
    runner.train()
    assert runner.cfg.model.backbone.arch.patch_size == 7
    assert tuple(runner.cfg.model.backbone.img_size) == (42, 42)
    torch.testing.assert_close(runner.model.data_preprocessor.mean.flatten(), torch.full((3,), 127.5))
    torch.testing.assert_close(runner.model.data_preprocessor.std.flatten(), torch.full((3,), 63.75))
    about = read_checkpoint(f'{runner.work_dir}/epoch_1.pth')['meta']['backbone']
    assert (about['norm_eps'], about['img_size']) == (1e-5, (42, 42))


@pytest.mark.parametrize('gated', [False, True])
@pytest.mark.parametrize('method', ['adclr', 'ibot'])
def test_rotary_positions_and_gates_come_from_the_file(method, gated, started_config, tmp_path):
    folder = write_dinov3_folder(tmp_path / 'dinov3', gated)
    runner = Runner.from_cfg(started_config(method, start=folder))
    runner.model.init_weights()
    original, images = open_backbone(folder), torch.randn(2, 3, 28, 42)
    teacher = runner.model.teacher['backbone'].eval()
    with torch.no_grad():
        for got, want in zip(teacher(images)[:2], original.model(images)[:2], strict=True):
            assert torch.equal(got, want)
    runner.train()
    trained = open_backbone(f'{runner.work_dir}/epoch_1.pth')
    assert trained.settings == original.settings
    assert trained.origin['license'] == 'dinov3-license'
    assert not trained.model.state_dict()['blocks.1.attn.qkv.bias'].chunk(3)[1].any()


def test_a_config_may_add_random_changes_of_rotary_positions(started_config, tmp_path):
    folder = write_dinov3_folder(tmp_path / 'dinov3')
    cfg = started_config(start=folder, overrides={'model.backbone.rope': dict(rescale_coords=2.0)})
    backbone = Runner.from_cfg(cfg).model.teacher['backbone']
    assert backbone.rope.rescale_coords == 2.0
    assert torch.equal(backbone.rope.periods, open_backbone(folder).model.rope.periods)


def test_the_license_is_told_once(started_config, tmp_path, monkeypatch):
    told = []
    for module in ('mmadclr.checkpoint.weights', 'mmadclr.hub.starting'):
        monkeypatch.setattr(f'{module}.print_log', lambda text, _: told.append(text))
    runner = Runner.from_cfg(started_config(start=write_dinov3_folder(tmp_path / 'dinov3')))
    assert told == []
    runner.model.init_weights()
    assert sum('DINOv3 License' in text for text in told) == 1


def test_registers_come_from_the_file(started_config, tmp_path):
    folder = write_folder(tmp_path / 'registers', registers=3)
    runner = Runner.from_cfg(started_config('adclr', start=folder))
    runner.model.init_weights()
    backbone = runner.model.teacher['backbone']
    assert backbone.reg_token.shape[1] == 3
    assert backbone.pos_embed_resize == open_backbone(folder).settings['pos_embed_resize']
    images = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(backbone(images).cls, open_backbone(folder).model(images).cls)


@pytest.mark.parametrize(('value', 'trained'), [(0.0, False), (0.25, True)])
def test_the_mask_token_is_that_of_the_file(value, trained, started_config, tmp_path):
    folder = write_folder(tmp_path / 'weights', mask_token=value)
    assert read_start(folder).mask_token_trained is trained
    runner = Runner.from_cfg(started_config('ibot', start=folder))
    runner.model.init_weights()
    token = runner.model.student['backbone'].mask_token
    assert torch.equal(token, torch.full_like(token, value))
    assert runner.model.teacher['backbone'].mask_token is None


def test_what_the_config_sets_wins(started_config):
    own = {'model.backbone.img_size': 28, 'model.backbone.norm_eps': 1e-4, 'model.data_preprocessor': dict(mean=(1, 2, 3))}
    cfg = complete_start(started_config(overrides=own))
    assert cfg.model.backbone.img_size == 28
    assert cfg.model.backbone.norm_eps == 1e-4
    assert tuple(cfg.model.data_preprocessor.mean) == (1, 2, 3)
    assert tuple(cfg.model.data_preprocessor.std) == (63.75,) * 3


def test_configs_without_weights_are_not_changed(small_config):
    cfg = small_config()
    before = cfg.to_dict()
    assert complete_start(cfg).to_dict() == before


def test_another_arch_is_refused_in_one_line(started_config):
    arch = dict(embed_dim=48, depth=2, num_heads=3, patch_size=8, mlp_ratio=2)
    message = (
        'model.backbone.arch=.* is not that of .*patch_size 7 in the file, 8 in the config; set model.backbone.arch=None'
    )
    with pytest.raises(ValueError, match=message) as caught:
        Runner.from_cfg(started_config(overrides={'model.backbone.arch': arch}))
    assert '\n' not in str(caught.value)


def test_the_same_arch_is_accepted(started_config, folder):
    arch = dict(embed_dim=48, depth=2, num_heads=3, patch_size=7, mlp_ratio=2.0)
    runner = Runner.from_cfg(started_config(overrides={'model.backbone.arch': arch}))
    runner.model.init_weights()
    expected = open_backbone(folder).model.state_dict()['blocks.1.mlp.fc2.weight']
    assert torch.equal(runner.model.teacher['backbone'].blocks[1].mlp.fc2.weight, expected)


def test_crops_that_patches_do_not_divide_are_refused_with_sizes_that_they_do(started_config):
    keys = ('local_size', 'query_size')
    wrong = {f'train_dataloader.dataset.transform.{key}': 16 for key in keys}
    with pytest.raises(ConfigError) as caught:
        Runner.from_cfg(started_config('adclr', overrides=wrong)).train()
    for key in keys:
        assert f'{key}=16 must be a multiple of the patch size 7 (model.backbone.arch): 14 or 21' in str(caught.value)


ANCHOR = dict(gram_weight=(2, 2), cls_weight=(1, 0.1), hold=0.25)


@pytest.mark.parametrize('anchor', [None, ANCHOR])
def test_a_resumed_run_needs_no_weights(anchor, started_config, tmp_path):
    folder, two = write_folder(tmp_path / 'gone'), {'train_cfg.max_epochs': 2, 'model.anchor': anchor}
    whole = Runner.from_cfg(started_config(start=folder, overrides=two, work_dir='whole'))
    whole.train()
    shutil.rmtree(folder)
    resumed = started_config(start=folder, overrides=two, work_dir='resumed')
    Path(resumed.work_dir).mkdir()
    shutil.copy(f'{whole.work_dir}/epoch_1.pth', resumed.work_dir)
    resumed.resume = True
    Runner.from_cfg(resumed).train()
    assert_same_state(*(read_checkpoint(f'{run}/epoch_2.pth')['state_dict'] for run in (whole.work_dir, resumed.work_dir)))


def test_an_anchor_needs_weights_to_start_from(small_config):
    with pytest.raises(ConfigError, match='model.anchor keeps the student close to the weights of .*which is not set'):
        Runner.from_cfg(small_config({'model.anchor': ANCHOR})).train()


def test_the_anchor_is_the_file_and_stays_it(started_config, folder):
    runner = Runner.from_cfg(started_config('adclr', overrides={'model.anchor': ANCHOR}))
    runner.train()
    assert_same_state(dict(runner.model.anchor.original.state_dict()), dict(open_backbone(folder).model.state_dict()))
    student, original = (each.state_dict() for each in (runner.model.student['backbone'], runner.model.anchor.original))
    assert not torch.equal(student['blocks.0.mlp.fc1.weight'], original['blocks.0.mlp.fc1.weight'])
    assert runner.model.anchor.progress == pytest.approx(2 / 3)
    checkpoint = open_backbone(f'{runner.work_dir}/epoch_1.pth')  # the teacher, not the original
    assert torch.equal(checkpoint.model.cls_token, runner.model.teacher['backbone'].cls_token)


def test_a_checkpoint_to_continue_from_wins(started_config, tmp_path):
    folder, two = write_folder(tmp_path / 'weights', normalization=None), {'train_cfg.max_epochs': 2}
    first = Runner.from_cfg(started_config(overrides=two, work_dir='first'))
    first.train()
    other = started_config(start=folder, overrides=two, work_dir='other')
    other.resume, other.load_from = True, f'{first.work_dir}/epoch_1.pth'
    Runner.from_cfg(other).train()
    assert_same_state(*(read_checkpoint(f'{run}/epoch_2.pth')['state_dict'] for run in (first.work_dir, other.work_dir)))


def test_heads_of_files_that_do_not_tell_come_from_the_config(started_config, folder, tmp_path):
    weights = tmp_path / 'weights.pth'
    torch.save({name: t for name, t in read_checkpoint(folder).items() if isinstance(t, torch.Tensor)}, weights)
    with pytest.raises(ValueError, match='not a multiple of 64: set num_heads'):
        Runner.from_cfg(started_config(start=weights))
    arch = dict(embed_dim=48, depth=2, num_heads=3, patch_size=7, mlp_ratio=SMALL_DINOV2['mlp_ratio'])
    runner = Runner.from_cfg(started_config(start=weights, overrides={'model.backbone.arch': arch}, work_dir='b'))
    assert runner.model.student['backbone'].blocks[0].attn.num_heads == 3
