"""Methods of mmpretrain on our data and runner: they train, and our evaluation reads what they leave."""

import pytest
import torch
from mmengine.config import Config
from places import REPO

from mmadclr.checkpoint import read_checkpoint
from mmadclr.checkpoint.opening import open_backbone
from mmadclr.engine import Runner
from mmadclr.engine.config_check import check_config
from mmadclr.models.preprocessors import MMPretrainPreprocessor


def without_momentum_encoder(path):
    """MoCo v3 of mmpretrain stores two backbones, of which our tools take neither unasked."""
    content = read_checkpoint(path)
    state = {name: tensor for name, tensor in content['state_dict'].items() if not name.startswith('momentum_encoder')}
    torch.save({'state_dict': state}, path)
    return path


@pytest.mark.dense
@pytest.mark.parametrize('method', ['mae', 'mocov3'])
def test_config_trains_and_its_backbone_is_read(method, tmp_path):
    cfg = Config.fromfile(REPO / f'configs/mmpretrain/{method}_vittiny_shapes.py')
    cfg.train_dataloader.update(batch_size=4, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.update(data_root=str(tmp_path / 'shapes'), num_train=8, num_val=2, image_size=32)
    cfg.train_cfg.max_epochs = 1
    cfg.default_hooks.checkpoint.interval = 1
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    cfg.work_dir, cfg.experiment_name = str(tmp_path), tmp_path.name
    check_config(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    image = torch.randn(2, 3, 32, 32)
    opened = open_backbone(without_momentum_encoder(tmp_path / 'epoch_1.pth'), num_heads=4).model.eval()
    theirs = runner.model.backbone
    theirs.eval()
    theirs.out_type = 'raw'
    with torch.no_grad():
        got = opened(image)
        (expected,) = theirs(image, mask=None) if method == 'mae' else theirs(image)
    torch.testing.assert_close(torch.cat((got.cls[:, None], got.patches), dim=1), expected, rtol=0, atol=1e-5)


def test_impossible_numbers_of_views():
    with pytest.raises(ValueError, match='num_views=3: samples have 2 global views, so take 1 or 2'):
        MMPretrainPreprocessor(num_views=3)
