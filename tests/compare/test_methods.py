"""The rows of a comparison."""

import shutil

import pytest
import torch
from places import REPO

from mmadclr.compare.methods import load_methods, row_names
from mmadclr.compare.protocol import check_alike

DEMO = REPO / 'configs/demo'
METHODS = ('dino', 'adclr', 'ibot', 'selfpatch', 'pqcl')


def demo(name):
    return str(DEMO / f'{name}_vittiny_shapes.py')


def test_names_are_those_of_files_with_the_folder_before_them_where_they_would_be_alike():
    assert row_names(['a/x.py', 'b/y.py']) == ['x', 'y']
    assert row_names(['a/x.py', 'b/x.py', 'b/z.py', 'runs/w']) == ['a_x', 'b_x', 'z', 'w']
    with pytest.raises(ValueError, match='two rows of the table would be named a_x: list each config once'):
        row_names(['a/x.py', 'a/x.py'])


@pytest.mark.parametrize('size', ['vitmini8_small', 'vits16_small'])
def test_small_configs_of_all_methods_may_be_compared(size):
    methods = load_methods([str(REPO / f'configs/{method}/{size}.py') for method in METHODS], {}, None)
    assert [method.name for method in methods] == [f'{method}_{size}' for method in METHODS]
    assert check_alike({method.name: method.cfg for method in methods}, ()) == []


def test_parameters_are_those_that_train():
    dino, selfpatch = load_methods([demo('dino'), demo('selfpatch')], {}, None)
    width, patch, tokens = 64, 3 * 8 * 8, 17
    block = 2 * 2 * width + 4 * width * width + 4 * width + 8 * width * width + 5 * width
    backbone = width * patch + width + width + tokens * width + 3 * block + 2 * width
    head = (64 + 1) * 128 + (128 + 1) * 128 + (128 + 1) * 32 + 64 * 32  # norms of the prototypes are fixed
    assert dino.parameters == backbone + head
    assert selfpatch.parameters > dino.parameters  # another head and two blocks of class attention
    assert (dino.class_token, selfpatch.class_token) == (True, False)


@pytest.fixture
def run(tmp_path):
    """A folder as training leaves it after 3 of 3 epochs."""
    folder = tmp_path / 'mine'
    folder.mkdir()
    shutil.copytree(REPO / 'configs/_base_', tmp_path / '_base_')
    shutil.copy(demo('adclr'), folder / 'adclr.py')
    with (folder / 'adclr.py').open('a') as file:
        file.write('train_cfg = dict(max_epochs=3)\n')
    torch.save({'state_dict': {}, 'meta': {}}, folder / 'epoch_3.pth')
    return folder


def test_finished_run_is_a_row(run):
    method, other = load_methods([str(run), demo('dino')], {'model.backbone.drop_path_rate': 0.5}, 7)
    assert (method.name, method.run) == ('mine', run / 'epoch_3.pth')
    assert method.cfg.train_cfg.max_epochs == 3  # overrides and --epochs are for what is yet to be trained
    assert method.cfg.model.backbone.get('drop_path_rate') is None
    assert other.cfg.train_cfg.max_epochs == 7


def test_runs_that_cannot_be_measured_are_explained(run):
    (run / 'epoch_3.pth').rename(run / 'epoch_2.pth')
    with pytest.raises(
        ValueError, match=r'mine is not finished: its newest checkpoint is epoch_2\.pth, not epoch_3\.pth.*--resume'
    ):
        load_methods([str(run)], {}, None)
    shutil.copy(run / 'adclr.py', run / 'other.py')
    with pytest.raises(ValueError, match=r'mine has 2 configs: adclr\.py, other\.py'):
        load_methods([str(run)], {}, None)
    with pytest.raises(ValueError, match=f'{run.parent} has no config; a work dir must have exactly one'):
        load_methods([str(run.parent)], {}, None)


@pytest.mark.dense
@pytest.mark.parametrize('file', ['benchmarks/demo/upernet_shapes.py', 'mmpretrain/mae_vittiny_shapes.py'])
def test_configs_of_other_things_are_refused(file):
    with pytest.raises(ValueError, match=f'{file} is not a pretraining config of one of our methods'):
        load_methods([str(REPO / 'configs' / file)], {}, None)
