"""Layer-wise learning rates of whole detectors, segmentors and models, against a rule written down once more."""

import importlib
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import LinearLR, build_optim_wrapper
from mmengine.registry import DefaultScope
from places import REPO
from torch import nn

from mmadclr.engine.optimizers.constructors import LayerDecayOptimConstructor
from mmadclr.engine.optimizers.wrappers import AutocastOptimWrapper
from mmadclr.models.backbones import DenseViT

DEPTH, TOP = 4, 5
ARCH = dict(embed_dim=24, depth=DEPTH, num_heads=3, patch_size=16)
BACKBONE = dict(arch=ARCH, img_size=64, out_indices=(0, 1, 2, 3), out_norm=True)
LR, DECAY = 1e-3, 0.05
OPTIMIZER = dict(type='AdamW', lr=LR, weight_decay=DECAY)


def read(name: str) -> Config:
    """A benchmark config with a backbone, a neck and heads that are small."""
    cfg = Config.fromfile(REPO / 'configs' / 'benchmarks' / name)
    cfg.model.backbone.update(img_size=64, out_indices=(0, 1, 2, 3))
    cfg.model.backbone.arch = ARCH
    necks = cfg.model.neck if isinstance(cfg.model.neck, list) else [cfg.model.neck]
    necks[0].embed_dim = 24
    for part in (*necks[1:], cfg.model.get('decode_head'), cfg.model.get('auxiliary_head')):
        if part is not None:
            part.in_channels = 24 if isinstance(part.in_channels, int) else [24] * 4
    for head in cfg.model.get('roi_head', {}).get('bbox_head', []):
        head.update(conv_out_channels=16, fc_out_channels=32)
    return cfg


def build(package: str, model_cfg: dict) -> nn.Module:
    importlib.import_module('mmadclr.ops')
    registry = importlib.import_module(f'{package}.registry')
    importlib.import_module(f'{package}.models')
    with DefaultScope.overwrite_default_scope(package):
        return registry.MODELS.build(model_cfg)


@pytest.fixture(scope='module')
def detection():
    cfg = read('coco/cascade-mask-rcnn_vits16_fpn_1x.py')
    return build('mmdet', cfg.model), cfg.optim_wrapper


@pytest.fixture(scope='module')
def segmentation():
    cfg = read('ade20k/upernet_vits16_512_160k.py')
    return build('mmseg', cfg.model), cfg.optim_wrapper


@pytest.fixture(scope='module')
def classification():
    model = dict(
        type='ImageClassifier',
        backbone={**BACKBONE, 'type': 'mmadclr.DenseViT', 'out_indices': (3,)},
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=24),
    )
    cfg = dict(optimizer=OPTIMIZER, paramwise_cfg=dict(decay_rate=0.65), constructor='mmadclr.LayerDecayOptimConstructor')
    return build('mmpretrain', model), cfg


@pytest.fixture(params=['detection', 'segmentation', 'classification'])
def built(request):
    return request.getfixturevalue(request.param)


def over_backbone(**kwargs) -> nn.Module:
    model = nn.Module()
    model.backbone = DenseViT(**BACKBONE, **kwargs)
    model.head = nn.Linear(24, 5)
    return model


@pytest.fixture
def model():
    return over_backbone()


def depth_by_hand(name: str) -> int:
    block = re.fullmatch(r'backbone\.blocks\.(\d+)\..+', name)
    if block:
        return 1 + int(block[1])
    return 0 if re.match(r'backbone\.(cls_token$|pos_embed$|patch_embed\.)', name) else TOP


def group_of_each(model, wrapper) -> dict[str, dict]:
    """The one parameter group of every trainable parameter."""
    groups = wrapper.optimizer.param_groups
    held = [id(parameter) for group in groups for parameter in group['params']]
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sorted(held) == sorted(names)
    for group in groups:
        assert [names[id(parameter)] for parameter in group['params']] == group['names']
    return {name: group for group in groups for name in group['names']}


def wrap(model, paramwise_cfg, **kwargs):
    return LayerDecayOptimConstructor(dict(optimizer=OPTIMIZER, precision='fp32', **kwargs), paramwise_cfg)(model)


@pytest.mark.dense
def test_every_parameter_has_the_rate_of_its_depth(built):
    model, cfg = built
    wrapper = build_optim_wrapper(model, cfg)
    assert type(wrapper) is AutocastOptimWrapper
    assert isinstance(wrapper.optimizer, torch.optim.AdamW)
    lr, rate = cfg['optimizer']['lr'], cfg['paramwise_cfg']['decay_rate']
    groups, shapes = group_of_each(model, wrapper), {name: p.shape for name, p in model.named_parameters()}
    assert {depth_by_hand(name) for name in groups} == set(range(TOP + 1))
    for name, group in groups.items():
        assert group['lr'] == pytest.approx(lr * rate ** (TOP - depth_by_hand(name)), rel=1e-12), name
        plain = name.endswith('.bias') or len(shapes[name]) == 1
        assert group['weight_decay'] == (0 if plain else cfg['optimizer']['weight_decay']), name
    assert groups['backbone.pos_embed']['weight_decay'] == groups['backbone.cls_token']['weight_decay'] == DECAY
    assert len(wrapper.optimizer.param_groups) == 2 * (TOP + 1)


@pytest.mark.dense
def test_necks_heads_and_final_norm_have_the_full_rate(built):
    model, cfg = built
    groups = group_of_each(model, build_optim_wrapper(model, cfg))
    full = {name for name, group in groups.items() if group['lr'] == cfg['optimizer']['lr']}
    assert full == {name for name in groups if not name.startswith('backbone.') or name.startswith('backbone.norm.')}
    assert len(full) > 2


@pytest.mark.dense
def test_rates_of_the_protocols(detection, segmentation):
    assert [(cfg['optimizer']['lr'], cfg['paramwise_cfg']) for _, cfg in (detection, segmentation)] == [
        (1e-4, dict(decay_rate=0.8)),
        (3e-5, dict(decay_rate=0.9)),
    ]


@pytest.mark.parametrize('no_decay', [('pos_embed', 'cls_token'), ['pos_embed'], ()])
def test_embeddings_are_exempt_from_decay_on_request(model, no_decay):
    groups = group_of_each(model, wrap(model, dict(decay_rate=0.65, no_decay=no_decay)))
    for name, parameter in model.named_parameters():
        exempt = parameter.ndim == 1 or name in [f'backbone.{first}' for first in no_decay]
        assert groups[name]['weight_decay'] == (0 if exempt else DECAY), name
        assert groups[name]['lr'] == pytest.approx(LR * 0.65 ** (TOP - depth_by_hand(name)), rel=1e-12)


def test_rate_of_one_leaves_all_rates_alike(model):
    groups = wrap(model, dict(decay_rate=1)).optimizer.param_groups
    assert {group['lr'] for group in groups} == {LR}


@pytest.mark.parametrize('stages', [0, 2, DEPTH])
def test_frozen_parameters_are_in_no_group(stages):
    model = over_backbone(frozen_stages=stages)
    groups = group_of_each(model, wrap(model, dict(decay_rate=0.5)))
    assert {depth_by_hand(name) for name in groups} == set(range(stages + 1, TOP + 1))
    for name, group in groups.items():
        assert group['lr'] == LR * 0.5 ** (TOP - depth_by_hand(name)), name
    assert ('backbone.norm.weight' in groups) == (stages < DEPTH)


def test_one_step_moves_by_the_rate_of_the_depth(model):
    cfg = dict(optimizer=dict(type='SGD', lr=LR, weight_decay=DECAY), precision='fp32')
    wrapper = LayerDecayOptimConstructor(cfg, dict(decay_rate=0.5))(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    wrapper.step()
    for name, parameter in model.named_parameters():
        decay = DECAY if parameter.ndim > 1 else 0
        expected = before[name] - LR * 0.5 ** (TOP - depth_by_hand(name)) * (1 + decay * before[name])
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=1e-7, msg=name)


def test_schedules_scale_all_rates_alike(model):
    wrapper = wrap(model, dict(decay_rate=0.65))
    LinearLR(wrapper, start_factor=0.1, begin=0, end=10)
    for name, group in group_of_each(model, wrapper).items():
        assert group['lr'] == pytest.approx(0.1 * LR * 0.65 ** (TOP - depth_by_hand(name)), rel=1e-9), name


def test_optimizer_state_survives_a_checkpoint(model):
    wrappers = [wrap(model, dict(decay_rate=rate)) for rate in (0.65, 0.9)]
    wrappers[1].load_state_dict(wrappers[0].state_dict())
    first, second = (group_of_each(model, wrapper) for wrapper in wrappers)
    assert all(first[name]['lr'] == second[name]['lr'] for name in first)


def test_config_of_the_caller_is_not_changed(model):
    cfg = dict(optimizer=dict(OPTIMIZER), precision='fp32', type='AutocastOptimWrapper')
    LayerDecayOptimConstructor(cfg, dict(decay_rate=0.5))(model)
    assert cfg == dict(optimizer=OPTIMIZER, precision='fp32', type='AutocastOptimWrapper')


@pytest.mark.parametrize(
    'paramwise_cfg',
    [
        *(None, {}, dict(no_decay=('pos_embed',)), dict(decay_rate=0), dict(decay_rate=1.1), dict(decay_rate=-0.5)),
        *(dict(decay_rate=0.8, num_layers=12), dict(layer_decay_rate=0.8)),
    ],
)
def test_bad_settings_are_explained(paramwise_cfg):
    with pytest.raises(ValueError, match=r'paramwise_cfg=.*: set decay_rate in \(0, 1\] and, if needed, no_decay'):
        LayerDecayOptimConstructor(dict(optimizer=OPTIMIZER), paramwise_cfg)


def test_backbones_without_depths_are_explained():
    with pytest.raises(ValueError, match='require a DenseViT backbone, not NoneType'):
        wrap(nn.Linear(2, 2), dict(decay_rate=0.5))
    model = nn.Module()
    model.backbone = nn.Conv2d(3, 4, 1)
    with pytest.raises(ValueError, match='require a DenseViT backbone, not Conv2d'):
        wrap(model, dict(decay_rate=0.5))


@pytest.mark.dense
def test_depths_follow_the_convention_of_mmpretrain(model):
    """Its own vision transformer of as many blocks gives the same parameters the same depths."""
    mmpretrain = importlib.import_module('mmpretrain.models')
    sizes = dict(embed_dims=24, num_layers=DEPTH, num_heads=3, feedforward_channels=96)
    theirs = mmpretrain.VisionTransformer(sizes, img_size=64, patch_size=16)
    renamed = {'ln1.': 'norm.', 'layers.': 'blocks.', 'patch_embed.projection.': 'patch_embed.proj.'}
    for name, _ in theirs.named_parameters():
        ours = next((new + name.removeprefix(old) for old, new in renamed.items() if name.startswith(old)), name)
        expected = theirs.get_layer_depth(f'backbone.{name}', 'backbone.')
        assert model.backbone.get_layer_depth(f'backbone.{ours}', 'backbone.') == expected, name
    assert model.backbone.get_layer_depth('head.fc.weight', 'backbone.') == (TOP, TOP + 1)
    assert model.backbone.get_layer_depth('blocks.2.norm1.weight') == (3, TOP + 1)
