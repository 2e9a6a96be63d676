"""Short overrides stand for all they promise."""

import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace

import pytest
from mmengine.config import Config
from places import REPO

from mmadclr.cli.arguments import add_config_arguments
from mmadclr.config.check import ConfigError
from mmadclr.config.loading import load_config, overrides_of, spell_out


def changed(config, **overrides):
    cfg = Config.fromfile(REPO / 'configs' / config)
    full = spell_out(cfg, overrides)
    cfg.merge_from_dict(full)
    return cfg, full


@pytest.mark.dense
def test_data_root_moves_data_sets_and_annotation_files():
    cfg, full = changed('benchmarks/coco/mask-rcnn_vits16_fpn_1x.py', data_root='/big/coco')
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert cfg[name].dataset.data_root == '/big/coco'
    for name in ('val_evaluator', 'test_evaluator'):
        assert cfg[name].ann_file == '/big/coco/annotations/instances_val2017.json'
    assert len(full) == 5


def test_data_root_reaches_the_probe_and_yields_to_longer_keys():
    cfg, _ = changed(
        'demo/adclr_vittiny_shapes.py', **{'data_root': '/other', 'train_dataloader.dataset.data_root': '/special'}
    )
    assert cfg.val_dataloader.dataset.data_root == cfg.val_evaluator.dense.train.data_root == '/other'
    assert cfg.train_dataloader.dataset.data_root == '/special'


def test_data_root_has_the_splits_of_a_config_that_names_their_folders():
    cfg, _ = changed('adclr/vits16_small.py', data_root='/other')
    assert cfg.train_dataloader.dataset.data_root == cfg.val_cfg.bank.data_root == '/other/train'
    assert cfg.val_dataloader.dataset.data_root == '/other/val'


@pytest.mark.parametrize('place', ['data/photos', 'elsewhere/train'])
def test_data_root_of_several_folders_is_refused(place):
    cfg = Config.fromfile(REPO / 'configs/adclr/vits16_small.py')
    cfg.train_dataloader.dataset.data_root = place
    with pytest.raises(ConfigError, match=rf'{place}.*; set train_dataloader\.dataset\.data_root and'):
        spell_out(cfg, dict(data_root='/other'))


@pytest.mark.dense
def test_pretrained_is_the_checkpoint_of_the_backbone():
    cfg, _ = changed('benchmarks/coco/mask-rcnn_vits16-8heads_fpn_1x.py', pretrained='a.pth')
    assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint='a.pth', allow=['num_heads'])


def test_operations_that_are_missing_end_a_tool_with_their_message():
    from mmadclr.cli.launch import report_bad_input
    from mmadclr.ops import nms

    @report_bad_input
    def main():
        nms(None, None, 0.5, offset=1)

    with pytest.raises(SystemExit, match=r'error: mmcv\.ops\.nms\(offset=1\) needs the compiled operations'):
        main()


def test_values_that_are_no_unicode_are_one_line(tmp_path):
    """They would break the log and the config in the checkpoint in the middle of the start."""
    folder = os.fsdecode(b'/data/caf\xe9')
    args = Namespace(
        config=str(REPO / 'configs/adclr/vits16_folder.py'),
        cfg_options={'train_dataloader.dataset.data_root': folder},
        work_dir=str(tmp_path),
    )
    with pytest.raises(
        ConfigError, match=r'^train_dataloader\.dataset\.data_root: /data/caf\\xe9 is not valid Unicode, which'
    ):
        load_config(args)


@pytest.mark.long
def test_tools_print_names_that_are_no_unicode():
    code = 'from mmadclr.cli.launch import report_bad_input; report_bad_input(lambda: print(chr(0xDCE9)))()'
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, check=True, env=os.environ | {'LC_ALL': 'C.UTF-8'}
    )
    assert done.stdout == b'\\udce9\n'


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        ([], {}),
        (['--verbose'], {'verbose': True}),
        (['--verbose', '--cfg-options', 'a.b=1'], {'verbose': True, 'a.b': 1}),
        (['--cfg-options', 'a.b=1', 'c=2', '--verbose'], {'verbose': True, 'a.b': 1, 'c': 2}),
    ],
)
def test_verbose_is_an_override_beside_others(words, expected):
    parser = ArgumentParser()
    add_config_arguments(parser)
    assert overrides_of(parser.parse_args(['config.py', *words])) == expected


def test_verbose_is_a_key_that_a_run_reads():
    args = Namespace(config=str(REPO / 'configs/demo/adclr_vittiny_shapes.py'), cfg_options={'verbose': True}, work_dir=None)
    assert load_config(args).verbose is True
