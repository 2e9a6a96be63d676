"""A training run of seconds, for tests of the engine."""

import shutil

import pytest
from places import REPO

SMALL = {
    'train_cfg.max_epochs': 2,
    'train_cfg.val_interval': 2,
    'train_dataloader.batch_size': 4,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'default_hooks.schedule.warmup_epochs': 1,
    'default_hooks.logger.interval': 1,
    'default_hooks.checkpoint.interval': 1,
    'default_hooks.checkpoint.max_keep_ckpts': -1,
    'model.backbone.arch': dict(embed_dim=24, depth=2, num_heads=3, patch_size=8),
    'val_evaluator.knn.k': 5,
}


# Hooks that take longer than such a run; tests marked all_hooks have them.
WITHOUT = {'default_hooks.features': None, 'default_hooks.report': None}
IMAGES = dict(num_train=12, num_val=10, image_size=32)


@pytest.fixture(scope='session')
def few_shapes(tmp_path_factory):
    """Generated images, to be copied."""
    from mmadclr.datasets.shapes import write_shapes

    folder = tmp_path_factory.mktemp('few') / 'shapes'
    write_shapes(folder, **{'size' if key == 'image_size' else key: value for key, value in IMAGES.items()})
    return folder


@pytest.fixture
def small_config(request, tmp_path, few_shapes):
    """The ADCLR demo at a size that takes seconds, on 12 + 10 generated images; ``overrides`` as dotted keys."""

    from mmengine.config import Config

    hooks = {} if request.node.get_closest_marker('all_hooks') else WITHOUT

    def make(overrides=None, work_dir='work', config='configs/demo/adclr_vittiny_shapes.py'):
        cfg = Config.fromfile(REPO / config)
        data = dict(data_root=str(tmp_path / 'shapes'), **IMAGES)
        if not (tmp_path / 'shapes').exists():
            shutil.copytree(few_shapes, tmp_path / 'shapes')
        cfg.merge_from_dict(SMALL | hooks | (overrides or {}))
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            loader.dataset.update(data)
        cfg.val_evaluator.dense = None
        cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
        cfg.work_dir = str(tmp_path / work_dir)
        # mmengine registers visualizers by the name of the experiment; a fresh one for every run.
        cfg.experiment_name = f'{tmp_path.name}_{work_dir}'
        return cfg

    return make


@pytest.fixture
def train(small_config):
    from mmadclr.engine import Runner

    def run(*args, **kwargs):
        runner = Runner.from_cfg(small_config(*args, **kwargs))
        runner.train()
        return runner

    return run
