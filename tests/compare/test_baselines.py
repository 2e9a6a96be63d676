"""The network before pretraining, and raw pixels."""

import json
import sys

import pytest
import torch
from mmengine.config import Config
from places import REPO

from mmadclr.checkpoint import read_checkpoint
from mmadclr.cli.baselines import main
from mmadclr.compare.baselines import headline, raw_pixels
from mmadclr.engine import Runner


@pytest.fixture
def config(tmp_path):
    """A file with the ADCLR demo on 12 + 10 images."""
    cfg = Config.fromfile(REPO / 'configs/demo/adclr_vittiny_shapes.py')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.update(data_root=str(tmp_path / 'shapes'), num_train=12, num_val=10, image_size=32)
        loader.update(batch_size=4, num_workers=0, persistent_workers=False)
    cfg.val_evaluator.dense.train.data_root = str(tmp_path / 'shapes')
    cfg.val_evaluator.dense.k = 3
    cfg.val_evaluator.knn.k = 5
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    cfg.randomness = dict(seed=4)
    cfg.work_dir, cfg.experiment_name = str(tmp_path / 'again'), f'{tmp_path.name}_again'
    file = tmp_path / 'config.py'
    file.write_text(cfg.pretty_text)
    return file


def test_baselines_are_those_of_a_run_with_this_seed(config, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['baselines', str(config), '--work-dir', str(tmp_path / 'out')])
    main()
    runner = Runner.from_cfg(Config.fromfile(config))
    state = read_checkpoint(tmp_path / 'out' / 'random.pth')['state_dict']
    assert state.keys() == runner.model.state_dict().keys()
    for name, tensor in runner.model.state_dict().items():
        assert torch.equal(state[name], tensor), name
    metrics = runner.build_val_loop(runner.val_loop).evaluate(raw_pixels(runner))
    expected = {'knn': metrics['knn5_T0.07_top1'], 'probe_miou': metrics['patch_linear_miou']}
    assert json.loads((tmp_path / 'out' / 'pixels.json').read_text()) == pytest.approx(expected, abs=0.005)


def test_headline_has_no_probe_where_none_was_run():
    assert headline({'knn20_T0.07_top1': 12.345}) == {'knn': 12.35}
    assert headline({'patch_linear_miou': 2.0, 'knn5_top1': 1.0, 'b': 3.0}) == {'knn': 1.0, 'probe_miou': 2.0}
