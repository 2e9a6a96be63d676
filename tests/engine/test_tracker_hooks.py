"""Pictures and tables that go to trackers, with a backend that keeps what it gets in place of a tracker."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.visualization import LocalVisBackend
from PIL import Image

from mmadclr.datasets import collate_samples
from mmadclr.engine import Runner
from mmadclr.report.collect import collect
from mmadclr.show.sheets import GAP, HEIGHT, boxes_sheet, crops_sheet
from mmadclr.show.snapshots import examples, read_snapshot

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


def test_an_evaluation_without_training_adds_nothing_and_builds_no_training_data(small_config):
    cfg = small_config(QUIET)
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type=Recorder, name='TensorboardVisBackend')])
    runner = Runner.from_cfg(cfg)
    assert runner.val()
    assert Recorder.rows == []
    assert isinstance(runner._train_loop, dict)


def test_every_run_has_a_picture_of_its_crops_and_the_newest_features_and_the_run_is_the_same_without(small_config, caplog):
    losses = {}
    for name, hooks in (('with', {}), ('without', {'default_hooks.crops': None, 'default_hooks.features': None})):
        cfg = small_config({'train_cfg.val_interval': 100, **hooks}, name)
        runner = Runner.from_cfg(cfg)
        runner.logger.addHandler(caplog.handler)
        runner.train()
        folder = Path(runner.log_dir)
        assert {path.name for path in folder.glob('*.png')} == ({'crops.png', 'features.png'} if name == 'with' else set())
        losses[name] = [json.loads(line).get('loss') for line in next(folder.rglob('scalars.json')).read_text().splitlines()]
        if name == 'with':
            assert [path.name for path in collect(cfg.work_dir).pictures] == ['crops.png']
            assert Image.open(folder / 'features.png').size[1] == 4 * (HEIGHT + GAP)
    assert losses['with'] == losses['without']
    assert not [record for record in caplog.records if 'no picture' in record.getMessage()]


def test_boxes_are_drawn_where_the_crops_come_from(small_config):
    runner = Runner.from_cfg(small_config())
    dataset, preprocessor = runner.train_dataloader.dataset, runner.model.data_preprocessor
    data = collate_samples([dataset[0], dataset[5]])
    images = [example.image for example in examples(dataset, len(dataset))]
    black = [Image.new('RGB', images[i].size) for i in (0, 5)]
    views = preprocessor(data, True)['views']
    sheet = boxes_sheet(black, data, views, preprocessor.mean, preprocessor.std)
    height = len(sheet) // 2
    scale = (height - GAP) / 32
    for row, queries in enumerate(data['query_boxes'].tolist()):
        left, top, right, bottom = (round(scale * edge) for edge in queries[-1])  # drawn last
        line = sheet[row * height + top, left : right - 1]
        assert (line == (255, 165, 0)).all(axis=1).mean() > 0.9
        assert bottom <= height
    plain, times = crops_sheet(views, preprocessor.mean, preprocessor.std, 2), height // (32 + GAP)
    np.testing.assert_array_equal(sheet[::times, -plain.shape[1] * times :: times], plain)


@pytest.mark.parametrize('config', ['ibot', 'pqcl', 'selfpatch', 'mocov3'])
def test_crops_of_every_method_are_drawn(small_config, config, caplog):
    runner = Runner.from_cfg(small_config({'train_cfg.max_epochs': 1}, config=f'configs/demo/{config}_vittiny_shapes.py'))
    runner.logger.addHandler(caplog.handler)
    runner.train()
    assert Path(runner.log_dir, 'crops.png').is_file()
    assert not [record for record in caplog.records if 'no picture' in record.getMessage()]


def test_a_failure_of_the_picture_is_one_warning(small_config, caplog, monkeypatch):
    def refuse(*args):
        raise OSError('no\nspace')

    monkeypatch.setattr('mmadclr.show.sheets.boxes_sheet', refuse)
    runner = Runner.from_cfg(small_config({'train_cfg.max_epochs': 1}))
    runner.logger.addHandler(caplog.handler)
    runner.train()
    assert runner.iter == 3
    told = [record.getMessage() for record in caplog.records if 'no picture' in record.getMessage()]
    assert told == ['no picture of crops (OSError: no space); the run goes on, and default_hooks.crops=None disables it']
