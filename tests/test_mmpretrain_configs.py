"""Methods of mmpretrain on our data and runner: they train, and our evaluation reads what they leave."""

import pytest
import torch
from mmengine.config import Config
from places import REPO

from mmadclr.config.check import ConfigError, check_config
from mmadclr.config.sense import check_sense
from mmadclr.engine import Runner
from mmadclr.hub.opening import open_backbone
from mmadclr.models.preprocessors import MMPretrainPreprocessor


def train(method, tmp_path):
    """A runner that has trained a config for two steps."""
    cfg = Config.fromfile(REPO / f'configs/mmpretrain/{method}_shapes.py')
    cfg.train_dataloader.update(batch_size=4, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.update(data_root=str(tmp_path / 'shapes'), num_train=8, num_val=2, image_size=32)
    cfg.train_cfg.max_epochs = 1
    cfg.default_hooks.checkpoint.interval = 1
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    cfg.work_dir, cfg.experiment_name = str(tmp_path), tmp_path.name
    check_config(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


@pytest.mark.dense
@pytest.mark.parametrize(
    ('method', 'which'),
    [('mae', 'teacher'), ('mocov3', 'student'), ('mocov3', 'teacher'), ('densecl', 'student'), ('densecl', 'teacher')],
)
def test_config_trains_and_its_backbone_is_read(method, which, tmp_path):
    """Of methods with a momentum encoder, that is the teacher."""
    model = train(f'{method}_vittiny', tmp_path).model.eval()
    theirs = {
        'mae': lambda: model.backbone,
        'mocov3': lambda: model.momentum_encoder.module[0],
        'densecl': lambda: model.encoder_k.module[0],
    }[method if which == 'teacher' else 'mae']()
    theirs.out_type = 'raw'
    image = torch.randn(2, 3, 32, 32)
    opened = open_backbone(tmp_path / 'epoch_1.pth', which, num_heads=4).model.eval()
    with torch.no_grad():
        got = opened(image)
        (expected,) = theirs(image, mask=None) if method == 'mae' else theirs(image)
    tokens = got.patches if got.cls is None else torch.cat((got.cls[:, None], got.patches), dim=1)
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-5)


@pytest.mark.dense
def test_simmim_learns_from_our_masks(tmp_path):
    """Its loss is the mean error over the pixels that our masks hide."""
    runner = train('simmim_swinmini', tmp_path)
    batch = next(iter(runner.train_dataloader))
    prepared = runner.model.data_preprocessor(batch, training=True)
    masks = torch.stack([sample.mask for sample in prepared['data_samples']])
    assert torch.equal(masks, batch['masks'][:, 0].float())
    assert masks.mean().item() == pytest.approx(0.6, abs=1 / 64)
    runner.model.eval()  # no stochastic depth
    (loss,) = runner.model.loss(**prepared).values()
    hidden = masks.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    restored = runner.model.neck(runner.model.backbone(prepared['inputs'], masks)[0])
    expected = ((restored - prepared['inputs']).abs() * hidden).sum() / hidden.sum() / 3
    torch.testing.assert_close(loss, expected)


@pytest.mark.dense
def test_masks_are_held_against_the_patches_of_the_other_backbone():
    cfg = Config.fromfile(REPO / 'configs/mmpretrain/mae_vittiny_shapes.py')
    cfg.train_dataloader.dataset.transform.mask = dict(type='RandomMasking', patch_size=4, ratio=0.6, spread=0.0)
    with pytest.raises(ConfigError, match='mask.patch_size=4, but model.backbone has patch size 8: set it to 8'):
        check_sense(cfg)


def test_impossible_numbers_of_views():
    with pytest.raises(ValueError, match='num_views=3 must be 1 or 2, the number of global views'):
        MMPretrainPreprocessor(num_views=3)
