"""Crops that go to trackers, with a backend that keeps what it gets in place of a tracker."""

import numpy as np
import pytest
from mmengine.visualization import LocalVisBackend

from mmadclr.datasets import collate_samples
from mmadclr.engine import Runner
from mmadclr.show.sheets import crops_sheet

QUIET = {'train_cfg.val_interval': 100}


class Recorder(LocalVisBackend):
    """Keeps scalars and pictures of the last run."""

    images, losses = [], []

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.images.clear()
        self.losses.clear()

    def add_image(self, name, image, step=0, **kwargs):
        self.images.append((name, step, image.copy()))

    def add_scalars(self, scalar_dict, step=0, file_path=None, **kwargs):
        if 'loss' in scalar_dict:
            self.losses.append(scalar_dict['loss'])


@pytest.fixture
def run(small_config):
    def start(name, work_dir, **changes):
        cfg = small_config({**QUIET, **changes}, work_dir)
        cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type=Recorder, name=name)])
        runner = Runner.from_cfg(cfg)
        runner.train()
        return runner, list(Recorder.images), list(Recorder.losses)

    return start


def test_a_tracker_gets_the_crops_of_the_first_batch_once_and_the_run_stays_the_same(run):
    _, none, losses = run('Recorder', 'without')
    runner, images, same = run('AimVisBackend', 'with')
    assert none == []
    assert same == losses
    assert len(losses) == 6
    ((name, step, picture),) = images
    assert (name, step) == ('crops', 0)
    side, preprocessor = 32, runner.model.data_preprocessor
    dataset = runner.train_dataloader.dataset
    views = preprocessor(collate_samples([dataset[0]]), True)['views']
    other = crops_sheet(views, preprocessor.mean, preprocessor.std, 1)
    assert picture.shape[1:] == other.shape[1:]
    assert picture.shape[0] == 4 * other.shape[0]  # all four images of the batch
    assert picture.dtype == np.uint8
    assert picture[:side, :side].std() > 0


def test_the_number_of_rows(run):
    _, ((_, _, one),), _ = run('WandbVisBackend', 'one', **{'default_hooks.crops': dict(num_images=1)})
    _, ((_, _, all_),), _ = run('WandbVisBackend', 'all')
    np.testing.assert_array_equal(one, all_[: len(one)])
    assert len(all_) == 4 * len(one)


def test_it_can_be_removed(run):
    assert run('MLflowVisBackend', 'removed', **{'default_hooks.crops': None})[1] == []
