"""Every pretraining config is built at reduced size, trains for one optimizer step and, where it validates, validates."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config
from places import REPO

from mmadclr.config.check import check_config
from mmadclr.engine import Runner
from mmadclr.models.backbones import QueryViT

CONFIGS = sorted(
    path for path in (REPO / 'configs').rglob('*.py') if not {'_base_', 'benchmarks', 'mmpretrain'} & set(path.parts)
)
TINY = dict(embed_dim=24, depth=2, num_heads=3)


def reduced(path, images, shapes, work_dir):
    """The config with everything that costs time made small, and nothing else changed."""
    cfg = Config.fromfile(path)
    arch = cfg.model.backbone.arch
    patch = 14 if arch is None else 16 if isinstance(arch, str) else arch.patch_size
    cfg.model.backbone.arch = dict(**TINY, patch_size=patch)
    if arch is None:  # that of the weights to start from
        cfg.model.backbone.init_cfg.checkpoint = str(weights_of(cfg.model.backbone.arch, work_dir))
    cfg.model.head.update(out_dim=32, hidden_dim=24)
    if cfg.model.head.type != 'MLPHead':
        cfg.model.head.bottleneck_dim = 16
    loaders = [cfg.train_dataloader]
    if cfg.val_cfg is not None:
        loaders.append(cfg.val_dataloader)
        cfg.val_evaluator.knn.k = 3
    for loader in loaders:
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        if loader.dataset.type == 'ShapesDataset':
            loader.dataset.update(data_root=str(shapes), num_train=10, num_val=10, image_size=32)
        else:
            loader.dataset.data_root = str(images)
            if cfg.val_cfg is not None:
                cfg.val_cfg.bank.data_root = str(images)
    if (cfg.val_evaluator or {}).get('dense'):
        cfg.val_evaluator.dense.train.data_root = str(shapes)
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    schedule = cfg.default_hooks.schedule
    schedule.pop('freeze_backbone_epochs', None)
    schedule.update(warmup_epochs=0, freeze_last_layer_epochs=min(1, schedule.freeze_last_layer_epochs))
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = work_dir.name
    return cfg


def weights_of(arch, work_dir):
    file = work_dir / 'weights.pth'
    torch.save(QueryViT(arch, img_size=8 * arch['patch_size']).state_dict(), file)
    return file


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


@pytest.mark.parametrize('arch', ['vits16', 'vitb16'])
def test_queries_are_all_that_adclr_adds_to_dino(arch):
    """What is published of both is in tests/data/published_recipes.csv; number and size are our reconstruction."""
    dino, adclr = (Config.fromfile(REPO / f'configs/{method}/{arch}_in1k.py').to_dict() for method in ('dino', 'adclr'))
    transform = adclr['train_dataloader']['dataset']['transform']
    assert (transform['num_query'], transform['query_size']) == (10, 16)
    for name in ('query_size', 'query_scale', 'query_source', 'query_photometric'):
        transform.pop(name)
    transform['num_query'] = 0
    assert adclr['model'].pop('loss_query') == dino['model']['loss_cls']
    assert (adclr['model'].pop('type'), adclr['model'].pop('query_weight')) == ('ADCLR', 1.0)
    assert adclr['model']['backbone'].pop('query_keys') == 'image'
    assert dino['model'].pop('type') == 'DINO'
    assert adclr == dino
