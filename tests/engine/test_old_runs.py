"""A run of an earlier version: its checkpoint is resumed, and old names in its config are refused with their new ones."""

import json

import pytest
import torch
from mmengine.config import Config
from places import DATA

from mmadclr.checkpoint import read_checkpoint
from mmadclr.config.check import ConfigError, check_config

RUN = DATA / 'old_run'
SETTINGS = {
    'train_cfg.val_interval': 100,
    'model.head.out_dim': 32,
    'model.head.hidden_dim': 32,
    'model.head.bottleneck_dim': 16,
    'model.backbone.arch': dict(embed_dim=12, depth=1, num_heads=3, patch_size=8),
    'default_hooks.schedule.momentum': (0.9, 1.0),
    'load_from': str(RUN / 'epoch_1.pth'),
    'resume': True,
}


def test_its_checkpoint_is_resumed_as_if_never_stopped(train):
    scalars = train(SETTINGS, config='configs/demo/adclr_ibot_vittiny_shapes.py').message_hub.log_scalars
    for name, values in json.loads((RUN / 'losses.json').read_text()).items():
        assert scalars[name].data[0].tolist() == pytest.approx(values, rel=1e-3), name


def test_its_centers_have_moved():
    tensors = read_checkpoint(RUN / 'epoch_1.pth')['state_dict']
    centers = {name: tensor for name, tensor in tensors.items() if name.endswith('.center')}
    assert centers.keys() == {'loss_cls.center', 'loss_patch.center', 'loss_query.center'}
    assert all(torch.count_nonzero(center) > 0 for center in centers.values())
    assert not [name for name in tensors if 'centre' in name]


def test_every_old_name_of_its_config_is_refused_with_the_new_one():
    with pytest.raises(ConfigError) as refused:
        check_config(Config.fromfile(RUN / 'config.py'))
    for line in str(refused.value).splitlines()[1:]:
        new = line.rpartition('did you mean ')[2]
        moved = 'dense_probe: FeatureEvalLoop has no such argument; write val_evaluator=dict(dense='
        assert new in ('center_momentum?', 'gray?', 'solarize?', 'ResizeCenterCrop?') or moved in line, line
    assert str(refused.value).count('did you mean') == 12
