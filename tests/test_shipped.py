"""Configs by name, and as bases of other people's configs."""

import subprocess
import sys

import pytest
from mmengine.config import Config
from places import REPO

import mmadclr.registry  # noqa: F401 (has mmengine understand mmadclr::)
from mmadclr import shipped
from mmadclr.shipped import ambiguity, base_file, find_config, first_line, importable, is_shipped, nearest, shipped_configs


def test_names_are_those_of_the_files():
    for name, path in shipped_configs().items():
        assert path == REPO / 'configs' / f'{name}.py'
        assert find_config(name) == find_config(f'{name}.py') == path
    assert 'adclr/ablations/lambda_0.1' in shipped_configs()
    assert not [name for name in shipped_configs() if '_base_' in name]


def test_every_config_says_in_a_line_what_it_is():
    for name, path in shipped_configs().items():
        line = first_line(path)
        assert 20 < len(line) < 130, name
        assert line == path.read_text().splitlines()[0].removeprefix('"""').removesuffix('"""')


def test_what_may_be_a_checkpoint_is_a_config_where_nothing_of_its_name_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_shipped('adclr/vits16_small')
    assert not is_shipped('adclr')
    (tmp_path / 'adclr/vits16_small').mkdir(parents=True)
    assert not is_shipped('adclr/vits16_small')


def test_there_is_doubt_only_where_two_files_may_be_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ambiguity('adclr/vits16_small') is None
    assert ambiguity('nothing') is None
    (tmp_path / 'adclr').mkdir()
    (tmp_path / 'adclr/vits16_small.py').symlink_to(REPO / 'configs/adclr/vits16_small.py')
    assert ambiguity('adclr/vits16_small') is ambiguity('adclr/vits16_small.py') is None
    (tmp_path / 'adclr/vits16_small.py').unlink()
    (tmp_path / 'adclr/vits16_small.py').touch()
    assert 'using the config of mmadclr' in ambiguity('adclr/vits16_small')
    assert 'using the file in this folder' in ambiguity('adclr/vits16_small.py')
    assert ambiguity('./adclr/vits16_small.py') is None


@pytest.mark.parametrize(
    ('word', 'first'), [('trian', 'train'), ('vits16_small', 'adclr/vits16_small'), ('adclr/vitb16', 'adclr/vitb16_in1k')]
)
def test_the_nearest_name_comes_first(word, first):
    assert nearest(word, ['test', 'train', *shipped_configs()])[0] == first


def test_nothing_is_near_to_nonsense():
    assert nearest('qqq', ['test', 'train']) == []


@pytest.mark.parametrize(
    'name', ['adclr/vits16_in1k.py', 'adclr/vits16_in1k', 'demo/ablations/lambda_0.1', '_base_/datasets/small.py']
)
def test_a_base_by_name_is_the_base_by_path(name, tmp_path):
    (tmp_path / 'named.py').write_text(f"_base_ = 'mmadclr::{name}'\nwork_dir = 'a'\n")
    (tmp_path / 'path.py').write_text(f"_base_ = '{base_file(name)}'\nwork_dir = 'a'\n")
    named, path = (Config.fromfile(tmp_path / f'{kind}.py').to_dict() for kind in ('named', 'path'))
    assert named == path
    assert '_scope_' not in str(named)


@pytest.mark.dense
def test_bases_of_other_packages_are_found_as_ever(tmp_path):
    (tmp_path / 'a.py').write_text(
        "_base_ = ['mmdet::_base_/schedules/schedule_1x.py', 'mmadclr::adclr/vits16_folder.py']\n"
    )
    with pytest.raises(KeyError, match='Duplicate key'):  # both were read
        Config.fromfile(tmp_path / 'a.py')
    (tmp_path / 'b.py').write_text(
        "_base_ = 'mmadclr::benchmarks/coco/mask-rcnn_vits16_fpn_1x.py'\ntrain_cfg = dict(max_epochs=1)\n"
    )
    cfg = Config.fromfile(tmp_path / 'b.py')
    assert (cfg.default_scope, cfg.train_cfg.max_epochs, cfg.train_cfg.type) == ('mmdet', 1, 'EpochBasedTrainLoop')
    assert cfg.model['_scope_'] == 'mmdet'  # of mmdet's config, which ours is based on
    assert '_scope_' not in cfg.train_dataloader


def test_bases_that_do_not_exist_are_told_with_the_nearest(tmp_path):
    (tmp_path / 'a.py').write_text("_base_ = 'mmadclr::adclr/vits16_in2k.py'\n")
    with pytest.raises(
        FileNotFoundError, match=r'^_base_ mmadclr::adclr/vits16_in2k\.py does not exist; did you mean adclr/vits16_in1k'
    ):
        Config.fromfile(tmp_path / 'a.py')


def test_other_interpreters_find_a_clone(tmp_path):
    code = 'import mmadclr; print(mmadclr.__file__)'
    environment = importable({'PATH': ''})
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(REPO / 'mmadclr/__init__.py')


def test_an_installed_package_is_no_clone(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, 'PACKAGE', tmp_path / 'mmadclr')
    monkeypatch.setattr(shipped, 'IN_WHEEL', tmp_path / 'mmadclr/.mim/configs')
    (tmp_path / 'configs').mkdir()  # of some other package
    shipped.IN_WHEEL.mkdir(parents=True)
    assert shipped.clone() is None
    assert shipped.config_folder() == shipped.IN_WHEEL
    assert importable({'PYTHONPATH': '/mine'}) == {'PYTHONPATH': '/mine'}
