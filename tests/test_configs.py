"""Every pretraining config is built at reduced size, trains for one optimizer step and, where it validates, validates."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config
from places import REPO

from mmadclr.engine import Runner
from mmadclr.engine.config_check import check_config

CONFIGS = sorted(
    path for path in (REPO / 'configs').rglob('*.py') if not {'_base_', 'benchmarks', 'mmpretrain'} & set(path.parts)
)
TINY = dict(embed_dim=24, depth=2, num_heads=3)


def reduced(path, images, shapes, work_dir):
    """The config with everything that costs time made small, and nothing else changed."""
    cfg = Config.fromfile(path)
    arch = cfg.model.backbone.arch
    patch = 16 if isinstance(arch, str) else arch.patch_size
    cfg.model.backbone.arch = dict(**TINY, patch_size=patch)
    cfg.model.head.update(out_dim=32, hidden_dim=24)
    if cfg.model.head.type != 'MLPHead':
        cfg.model.head.bottleneck_dim = 16
    loaders = [cfg.train_dataloader]
    if cfg.val_cfg is not None:
        loaders.append(cfg.val_dataloader)
        cfg.val_evaluator.k = 3
    for loader in loaders:
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        if loader.dataset.type == 'ShapesDataset':
            loader.dataset.update(data_root=str(shapes), num_train=10, num_val=10, image_size=32)
        else:
            loader.dataset.data_root = str(images)
            if cfg.val_cfg is not None:
                cfg.val_cfg.bank.data_root = str(images)
    if (cfg.val_cfg or {}).get('dense_probe'):
        cfg.val_cfg.dense_probe.train.data_root = str(shapes)
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    schedule = cfg.default_hooks.schedule
    schedule.update(warmup_epochs=0, freeze_last_layer_epochs=min(1, schedule.freeze_last_layer_epochs))
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = work_dir.name
    return cfg


def cases():
    """Ablations are slow: each has a key or two more than a config that is built anyway."""
    for path in CONFIGS:
        marks = [pytest.mark.slow] if 'ablations' in path.parts else []
        yield pytest.param(path, marks=marks, id=str(path.relative_to(REPO / 'configs')))


@pytest.mark.parametrize('path', cases())
def test_config_builds_and_trains(path, image_folder, tmp_path):
    cfg = reduced(path, image_folder(count=4, size=(128, 112)), tmp_path / 'shapes', tmp_path)
    check_config(cfg)
    runner = Runner.from_cfg(cfg)
    runner._init_model_weights = lambda: None  # the weights of the construction, so that they can be compared
    before = {name: p.clone() for name, p in runner.model.student.named_parameters()}
    runner.train()
    frozen = cfg.default_hooks.schedule.freeze_last_layer_epochs > 0
    for name, parameter in runner.model.student.named_parameters():
        still = not parameter.requires_grad or (frozen and 'last_layer' in name)
        assert torch.equal(parameter, before[name]) == still, name
    if cfg.val_cfg is not None:
        assert 0 <= runner.message_hub.get_scalar('val/knn3_T0.07_top1').current() <= 100


def test_there_are_configs():
    names = {str(path.relative_to(REPO / 'configs')) for path in CONFIGS}
    assert {'adclr/vits16_in1k.py', 'dino/vitb16_in1k.py', 'demo/adclr_vittiny_shapes.py', 'adclr/vits16_small.py'} < names


def published(cfg):
    """What decides a run, for comparison with the published table."""
    schedule, transform = cfg.default_hooks.schedule, cfg.train_dataloader.dataset.transform
    return dict(
        epochs=cfg.train_cfg.max_epochs,
        total_batch=8 * cfg.train_dataloader.batch_size,
        lr=cfg.optim_wrapper.optimizer.lr,
        min_lr=schedule.min_lr,
        warmup=schedule.warmup_epochs,
        weight_decay=tuple(schedule.weight_decay),
        clip=cfg.optim_wrapper.max_norm,
        frozen=schedule.freeze_last_layer_epochs,
        momentum=tuple(schedule.momentum),
        teacher_temp=(*schedule.teacher_temp, schedule.teacher_temp_warmup_epochs),
        prototypes=cfg.model.head.out_dim,
        norm_last_layer=cfg.model.head.norm_last_layer,
        drop_path=cfg.model.backbone.drop_path_rate,
        crops=(transform.global_size, tuple(transform.global_scale), transform.num_local, tuple(transform.local_scale)),
    )


SMALL = dict(
    epochs=800,
    total_batch=1024,
    lr=5e-4,
    min_lr=1e-5,
    warmup=10,
    weight_decay=(0.04, 0.4),
    clip=None,
    frozen=1,
    momentum=(0.996, 1.0),
    teacher_temp=(0.04, 0.07, 30),
    prototypes=65536,
    norm_last_layer=False,
    drop_path=0.1,
    crops=(224, (0.25, 1.0), 10, (0.05, 0.25)),
)
BASE = SMALL | dict(
    epochs=400, lr=7.5e-4, min_lr=2e-6, clip=0.3, frozen=3, teacher_temp=(0.04, 0.07, 50), norm_last_layer=True
)


@pytest.mark.parametrize('method', ['dino', 'adclr'])
@pytest.mark.parametrize(('arch', 'expected'), [('vits16', SMALL), ('vitb16', BASE)])
def test_imagenet_configs_hold_the_published_settings(method, arch, expected):
    cfg = Config.fromfile(REPO / f'configs/{method}/{arch}_in1k.py')
    assert published(cfg) == expected
    assert cfg.train_dataloader.dataset.transform.num_query == (10 if method == 'adclr' else 0)


IBOT_SMALL = SMALL | dict(min_lr=1e-6, clip=3.0, prototypes=8192)
IBOT_BASE = BASE | dict(prototypes=8192, crops=(224, (0.32, 1.0), 10, (0.05, 0.32)))


@pytest.mark.parametrize(('arch', 'expected'), [('vits16', IBOT_SMALL), ('vitb16', IBOT_BASE)])
def test_ibot_configs_hold_the_published_settings(arch, expected):
    cfg = Config.fromfile(REPO / f'configs/ibot/{arch}_in1k.py')
    assert published(cfg) == expected
    assert (cfg.model.cls_weight, cfg.model.patch_weight) == (1.0, 1.0)
    mask = cfg.train_dataloader.dataset.transform.mask
    assert mask == dict(type='BlockMasking', patch_size=16, ratio=(0.0, 0.3), spread=(0.0, 0.2), start_epoch=0)


SELFPATCH_SMALL = SMALL | dict(
    epochs=300,
    min_lr=1e-6,
    clip=3.0,
    teacher_temp=(0.04, 0.04, 0),
    norm_last_layer=True,
    crops=(224, (0.25, 1.0), 8, (0.05, 0.25)),
)


def test_selfpatch_config_holds_the_published_settings():
    cfg = Config.fromfile(REPO / 'configs/selfpatch/vits16_in1k.py')
    assert published(cfg) == SELFPATCH_SMALL
    assert (cfg.model.patch_head.out_dim, cfg.model.patch_weight) == (4096, 0.1)
    assert cfg.model.class_attention == dict(depth=2, num_neighbours=4, wrap=True)


PQCL_SMALL = IBOT_SMALL | dict(epochs=100, total_batch=512, crops=(224, (0.25, 1.0), 0, (0.05, 0.25)))


def test_pqcl_config_holds_the_published_settings():
    cfg = Config.fromfile(REPO / 'configs/pqcl/vits16_in1k.py')
    assert published(cfg) == PQCL_SMALL
    assert (cfg.model.cls_weight, cfg.model.patch_weight, cfg.model.query_weight) == (1.0, 1.0, 1.0)
    assert cfg.model.backbone.query_keys == 'image+queries'
    transform = cfg.train_dataloader.dataset.transform
    queries = transform.num_query, transform.query_size, tuple(transform.query_scale), transform.query_source
    assert queries == (1, 96, (0.05, 0.25), 'image')
    assert transform.mask == dict(type='BlockMasking', patch_size=16, ratio=(0.0, 0.3), spread=(0.0, 0.2), start_epoch=0)
