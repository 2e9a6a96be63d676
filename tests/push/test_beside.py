"""Results that lie beside a checkpoint: those of this one are found, those of others are not."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from mmadclr.push.beside import find_results, whole_epoch
from mmadclr.push.results import Result
from mmadclr.report.evaluations import suite_file


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'run').mkdir()
    return tmp_path / 'run'


def save(path, **content):
    torch.save({'state_dict': {}, 'meta': {}, **content}, path)
    return path


def suite(checkpoint, value=50.0):
    return json.dumps(dict(checkpoint=str(checkpoint), metrics={'voc/linear_mIoU': dict(value=value, low=1.0, high=99.0)}))


def test_the_suite_is_found_beside_the_checkpoint_and_in_its_default_folder(folder, monkeypatch):
    mine, other = save(folder / 'epoch_1.pth'), save(folder / 'epoch_2.pth')
    (folder / 'mine.json').write_text(suite('run/epoch_1.pth'))  # as it was given to the command: relative
    (folder / 'other.json').write_text(suite(other))
    for checkpoint, value in ((mine, 51.0), (other, 52.0)):
        suite_file(checkpoint).parent.mkdir(parents=True)
        suite_file(checkpoint).write_text(suite(checkpoint, value))
    found = find_results(mine)
    assert set(found.results) == {str(folder / 'mine.json'), 'work_dirs/dense/run-epoch_1/result.json'}
    assert [result.value for results in found.results.values() for result in results] == [50.0, 51.0]
    assert found.left == []


def test_an_adaptation_is_that_of_its_best_checkpoint(folder):
    measure = dict(adapted=dict(value=31.5, low=30.0, high=33.0), original=dict(value=29.0, low=28.0, high=30.0))
    (folder / 'adaptation.json').write_text(json.dumps(dict(verdict='better', measures={'knn_top1': measure})))
    first, last = save(folder / 'epoch_1.pth'), save(folder / 'epoch_2.pth')
    os.utime(first, (1, 1))
    assert find_results(first).results == {}
    wanted = {str(folder / 'adaptation.json'): [Result('adaptation', 'knn_top1', 31.5, 'adaptation.json', 30.0, 33.0)]}
    assert find_results(last).results == wanted
    best = save(folder / 'best_knn_top1.pth')
    assert find_results(last).results == {}
    assert find_results(best).results == wanted


def test_validations_of_the_run_at_the_epoch_of_the_checkpoint(train):
    """A run that validates after every epoch: each checkpoint has its own numbers, as the log has them."""
    runner = train({'train_cfg.val_interval': 1})
    (file,) = Path(runner.work_dir).glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in file.read_text().splitlines()]
    logged = {record['step']: record for record in records if any('top1' in key for key in record)}
    assert set(logged) == {1, 2}
    for epoch in (1, 2):
        (results,) = find_results(f'{runner.work_dir}/epoch_{epoch}.pth').results.values()
        found = {result.metric: result.value for result in results}
        assert found == {key: value for key, value in logged[epoch].items() if key != 'step'}
        assert {result.dataset for result in results} == {'shapes'}
        assert {result.source for result in results} == {f'log of the run, epoch {epoch}'}
    elsewhere = shutil.copytree(
        runner.work_dir, f'{runner.work_dir}_copy', ignore=lambda _, names: {*names} - {'epoch_1.pth'}
    )
    assert find_results(f'{elsewhere}/epoch_1.pth').results == {}


def test_a_checkpoint_within_an_epoch_has_no_validation():
    saved = dict(meta=dict(epoch=2, iter=7), position=dict(epoch=2, batch=1))
    assert whole_epoch(saved) is None
    assert whole_epoch({**saved, 'position': dict(epoch=2, batch=0)}) == 2
    assert whole_epoch(dict(meta=dict(epoch=2))) == 2  # of runs that recorded no position
    assert whole_epoch(dict(meta={})) is None
    assert whole_epoch({}) is None


def test_public_models_and_folders_have_none(folder):
    save(folder / 'a.pth')
    (folder / 'result.json').write_text(suite(folder))
    for checkpoint in ('hf:me/vit', folder):
        assert find_results(checkpoint) == ({}, [])
