"""Pictures and tables that go to trackers, with a backend that keeps what it gets in place of a tracker."""

import numpy as np
import pytest
from mmengine.visualization import LocalVisBackend

from mmadclr.datasets import collate_samples
from mmadclr.engine import Runner
from mmadclr.show.sheets import GAP, HEIGHT, crops_sheet
from mmadclr.show.snapshots import read_snapshot

pytestmark = pytest.mark.all_hooks

QUIET = {'train_cfg.val_interval': 100, 'default_hooks.features': None}


class Recorder(LocalVisBackend):
    """Keeps scalars, pictures and tables of the last run."""

    images, losses, rows = [], [], []

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.images.clear()
        self.losses.clear()
        self.rows.clear()

    def add_image(self, name, image, step=0, **kwargs):
        self.images.append((name, step, image.copy()))

    def add_row(self, table, row, step):
        self.rows.append((table, step, row))

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


def test_pictures_of_features_go_to_a_tracker_at_the_moments_of_the_report(run, tmp_path):
    changes = {'default_hooks.features': dict(times=2, images=2), 'default_hooks.crops': None}
    _, images, losses = run('WandbVisBackend', 'work', **changes)
    assert losses == run('Recorder', 'without')[2]
    assert [(name, step) for name, step, _ in images] == [('features', 0), ('features', 3), ('features', 6)]
    (folder,) = tmp_path.glob('work/*/features')
    last = read_snapshot(folder / 'iter_6.npz')
    for _, _, picture in images:
        assert picture.shape == (2 * (HEIGHT + GAP), 3 * (HEIGHT + GAP), 3)
    attention = images[-1][2][:HEIGHT, 2 * (HEIGHT + GAP) : -GAP]
    h, w = last.attention[0].shape
    cells = attention[HEIGHT // h // 2 :: HEIGHT // h, HEIGHT // w // 2 :: HEIGHT // w, 0][:h, :w]
    np.testing.assert_allclose(cells / 255, last.attention[0], atol=0.01)


def test_validations_are_a_table_of_a_tracker(run):
    run('MLflowVisBackend', 'work', **{'train_cfg.val_interval': 1})
    (first, second) = Recorder.rows
    assert first[:2] == ('validations', 3)
    assert second[:2] == ('validations', 6)
    assert [row['epoch'] for _, _, row in Recorder.rows] == [1, 2]
    assert {'epoch', 'iter', 'knn5_T0.07_top1'} <= second[2].keys()


def test_without_a_tracker_there_is_no_table(run):
    run('Recorder', 'work', **{'train_cfg.val_interval': 1})
    assert Recorder.rows == []
