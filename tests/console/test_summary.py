"""What a run says of itself, word for word."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from places import REPO

from mmadclr.console.summary import describe_backbone, describe_data, number, setting
from mmadclr.engine import Runner

STAMP = re.compile(r'\d{8}_\d{6}')


def shown(text, folder):
    """Without what differs from run to run: folder, time of the start, duration."""
    text = STAMP.sub('TIME', text.replace(str(folder), 'TMP'))
    return re.sub(r'(?<=iterations in )\d+:\d\d:\d\d', 'SHORT', text)


SUMMARY = """\
method   ADCLR
backbone QueryViT (embed_dim=24, depth=2, num_heads=3, patch_size=8), 0.02 M parameters
data     12 images in TMP/shapes/train (ShapesDataset)
batch    4 images = 4 x 1 process x 1 accumulated
length   2 epochs x 3 iterations = 6 iterations
device   1 x cpu, fp32
rate     0.0001875 = 0.003 x 4 / 64 images
work dir TMP/work
log      TMP/work/TIME/TIME.log
start    random weights
"""
END = """\
done     6 iterations in SHORT
saved    TMP/work/epoch_2.pth
log      TMP/work/TIME/TIME.log
next     mmadclr export TMP/work/epoch_2.pth TMP/work/timm --format timm
report   TMP/work/report.html
"""


@pytest.mark.all_hooks
def test_the_demo_config_says_what_it_is_about_and_where_things_are(train, tmp_path, capsys):
    runner = train()
    told = shown(capsys.readouterr().out, tmp_path)
    assert SUMMARY in told
    assert told.endswith(END)
    assert SUMMARY.rstrip('\n') in shown(Path(runner.logger.log_file).read_text(), tmp_path)
    parameters = sum(parameter.numel() for parameter in runner.model.student['backbone'].parameters())
    assert f'{parameters / 1e6:.2f} M' == '0.02 M'


def line(text, name):
    (found,) = re.findall(rf'^{name} +(.*)$', text, re.MULTILINE)
    return found


def test_accumulated_batches_and_unscaled_rates(train, capsys):
    overrides = {'optim_wrapper.accumulative_counts': 2, 'auto_scale_lr': None, 'optim_wrapper.precision': 'bf16'}
    train(overrides)
    told = capsys.readouterr().out
    assert line(told, 'batch') == '8 images = 4 x 1 process x 2 accumulated'
    assert line(told, 'length') == '2 epochs x 3 iterations = 6 iterations, 3 optimizer steps'
    assert line(told, 'rate') == '0.003, independent of the batch size'
    assert line(told, 'device') == '1 x cpu, bf16'


def test_a_resumed_run_says_so_in_one_line(small_config, train, tmp_path, capsys):
    train({'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1})
    capsys.readouterr()
    cfg = small_config()
    cfg.resume, cfg.experiment_name = True, f'{tmp_path.name}_again'
    runner = Runner.from_cfg(cfg)
    runner.train()
    told = shown(capsys.readouterr().out, tmp_path)
    mentions = [text for text in told.splitlines() if 'resumed' in text or 'loaded' in text]
    assert mentions == ['start    TMP/work/epoch_1.pth, resumed after 3 iterations']
    assert 'resumed: the next is batch 1 of epoch 2' in Path(runner.logger.log_file).read_text()


def test_an_evaluation_says_what_is_evaluated_and_builds_no_training(small_config, train, tmp_path, capsys):
    train()
    capsys.readouterr()
    cfg = small_config(work_dir='evaluation')
    cfg.load_from = str(tmp_path / 'work/epoch_2.pth')
    runner = Runner.from_cfg(cfg)
    metrics = runner.val()
    expected = f"""\
method   ADCLR
backbone QueryViT (embed_dim=24, depth=2, num_heads=3, patch_size=8), 0.02 M parameters
data     10 images in TMP/shapes/val (ShapesDataset)
device   1 x cpu
work dir TMP/evaluation
log      TMP/evaluation/TIME/TIME.log
weights  TMP/work/epoch_2.pth
{', '.join(f'{name} {value:.4g}' for name, value in metrics.items())}
"""
    assert shown(capsys.readouterr().out, tmp_path) == expected
    assert isinstance(runner._train_loop, dict)


@pytest.mark.parametrize(
    ('config', 'keys', 'expected'),
    [
        ('configs/adclr/vits16_in1k.py', ('model', 'backbone', 'arch'), 'vit_small_patch16_224'),
        ('configs/adclr/vits16_in1k.py', ('model', 'backbone', 'init_cfg', 'checkpoint'), None),
        ('configs/adclr/vits16_in1k.py', ('optim_wrapper', 'optimizer', 'lr'), 5e-4),
        ('configs/adclr/vits16_in1k.py', ('nothing', 'at', 'all'), None),
    ],
)
def test_settings_may_be_missing(config, keys, expected):
    assert setting(Config.fromfile(REPO / config), *keys) == expected


def test_backbones_of_others_have_a_class_and_a_size():
    assert describe_backbone(torch.nn.Linear(1000, 999), None) == 'Linear, 1.00 M parameters'
    assert describe_backbone(torch.nn.Linear(1000, 999), 50) == 'Linear 50, 1.00 M parameters'


def test_places_of_data_hide_secrets():
    data = type('Stored', (list,), dict(data_root='https://user:password@host/images?signature=1'))
    assert describe_data(data(range(1234))) == '1,234 images in https://host/images (Stored)'
    assert describe_data([1]) == '1 image (list)'


def test_numbers_have_their_unit():
    assert [number(count, 'process', 'es') for count in (1, 2, 1000)] == ['1 process', '2 processes', '1,000 processes']
