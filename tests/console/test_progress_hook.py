"""How far a run is, as a person reads it: numbers are those of the log, on a terminal, without one, on one process only."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from mmengine.logging import MessageHub
from programs import python_on_ranks, run_side_by_side
from terminals import Terminal

from mmadclr.console.progress_hook import headline
from mmadclr.engine import Runner

PLAIN = dict(TERM='xterm', NO_COLOR='1')
DUMPS = ('System environment', 'Config:', 'Hooks will be executed', 'base_lr', 'Exp name', 'Saving checkpoint')


def scalars(runner):
    lines = Path(runner.log_dir, 'vis_data/scalars.json').read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_without_a_terminal_lines_have_the_numbers_of_the_log(train, capsys):
    runner = train({'train_cfg.val_interval': 1, 'default_hooks.logger.interval': 2})
    told = capsys.readouterr().out
    found = re.findall(
        r'^ *(\d+)%  epoch (\d)/2  loss (\S+)  (\S+) left  (\S+) images/s(?:  k-NN (\S+) %)?  iteration (\d)/6$',
        told,
        re.MULTILINE,
    )
    logged = scalars(runner)
    steps = [line for line in logged if 'loss' in line]
    knn = {line['step']: line['knn5_T0.07_top1'] for line in logged if 'knn5_T0.07_top1' in line}
    assert [int(line[-1]) for line in found] == [line['step'] for line in steps] + [6] == [2, 5, 6], 'and the end'
    for (percent, epoch, loss, left, speed, last, _), line in zip(found, steps, strict=False):
        assert int(percent) == round(100 * line['step'] / 6)
        assert int(epoch) == line['epoch']
        assert loss == f'{line["loss"]:.4g}'
        assert re.fullmatch(r'0:00:\d\d', left)
        assert float(speed) == pytest.approx(line['images_per_s'], rel=0.05, abs=1)
        assert last == ('' if line['epoch'] == 1 else f'{knn[1]:.1f}')
    results = re.findall(r'^after (\d) iterations: knn5_T0.07_top1 (\S+), ', told, re.MULTILINE)
    assert results == [('3', f'{knn[1]:.4g}'), ('6', f'{knn[2]:.4g}')]


def test_the_log_file_is_complete_and_the_console_has_none_of_it(train, capsys):
    runner = train()
    told, log = capsys.readouterr().out, Path(runner.logger.log_file).read_text()
    for text in DUMPS:
        assert text in log, text
        assert text not in told, text
    assert len(told.splitlines()) < 40 < len(log.splitlines())


def test_verbose_brings_everything_back(train, capsys):
    train({'verbose': True})
    told = capsys.readouterr().out
    for text in DUMPS:
        assert text in told, text
    assert 'method   ADCLR' not in told


def test_warnings_are_told_as_they_come(small_config, capsys, tmp_path):
    cfg = small_config({'default_hooks.unreadable.max_unreadable': 5})
    Runner.from_cfg(cfg).build_dataloader(cfg.train_dataloader)  # draws the images
    broken = min((tmp_path / 'shapes/train').rglob('*.png'))
    broken.write_bytes(b'no image')
    cfg.experiment_name += '_broken'
    Runner.from_cfg(cfg).train()
    told = capsys.readouterr().out
    assert (
        len(re.findall(rf'^warning: unreadable image, replaced by the next one: .*{broken.name}', told, re.MULTILINE)) == 1
    )
    assert re.findall(r'^warning: epoch \d: 1 unreadable images replaced$', told, re.MULTILINE)


def test_without_standard_output_a_run_goes_on(small_config, monkeypatch, capsys):
    monkeypatch.setattr('sys.stdout', None)
    Runner.from_cfg(small_config()).train()
    assert 'iteration 6/6' in capsys.readouterr().err  # where logging writes then


def test_a_log_level_above_info_silences_progress(train, capsys):
    train({'log_level': 'ERROR'})
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize(('ignore_last', 'interval'), [(True, 2), (False, 2), (True, 5), (True, 3), (True, 1)])
def test_lines_come_when_the_log_has_them(train, capsys, ignore_last, interval):
    runner = train({'default_hooks.logger.ignore_last': ignore_last, 'default_hooks.logger.interval': interval})
    told = [int(step) for step in re.findall(r'iteration (\d)/6$', capsys.readouterr().out, re.MULTILINE)]
    assert told == sorted({*(line['step'] for line in scalars(runner) if 'loss' in line), 6})


@pytest.fixture
def training(small_config, tmp_path):
    """A command that trains for seconds."""
    small_config().dump(tmp_path / 'small.py')
    return ['tools/train.py', str(tmp_path / 'small.py')]


def test_on_a_narrow_terminal_one_line_is_rewritten(training):
    terminal = Terminal(40)
    (done,) = run_side_by_side([training], [PLAIN], stdout=terminal.path, stderr=terminal.path)
    terminal.close()
    assert done.returncode == 0, terminal.text
    assert '\x1b' not in terminal.text
    rewritten = [part for part in re.split(r'[\r\n]', terminal.text) if 'epoch ' in part and '%' in part]
    assert len({part[:4] for part in rewritten}) >= 3  # percent
    assert all(len(part) < 40 for part in rewritten)
    assert any(re.search(r'loss \d', part) for part in rewritten)
    left = terminal.rows()
    assert not any('epoch 1/2' in row or 'epoch 2/2' in row for row in left), 'the line is taken away at the end'
    assert left[-1] == ''
    assert any(row.startswith('next     mmadclr export') for row in left)


def test_a_pipe_that_is_closed_early_ends_no_run(training, tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    with subprocess.Popen(['head', '-2', tmp_path / 'pipe'], stdout=subprocess.PIPE, text=True) as head:
        (done,) = run_side_by_side([training], [PLAIN], stdout=tmp_path / 'pipe')
        assert len(head.stdout.readlines()) == 2
    assert (done.returncode, done.stderr) == (0, '')
    assert (tmp_path / 'work/epoch_2.pth').is_file()


def test_the_first_of_several_processes_tells_alone(training):
    first, second = python_on_ranks(2, *training, '--launcher', 'pytorch')
    assert 'batch    8 images = 4 x 2 processes x 1 accumulated' in first.stdout
    assert 'device   2 x cpu, fp32' in first.stdout
    assert first.stdout.count('iteration 2/2') == 1
    told = [line for text in (second.stdout, second.stderr) for line in text.splitlines()]
    assert [line for line in told if not line.startswith('[Gloo]')] == []  # torch before 2.11 prints that it is connected


@pytest.mark.parametrize(
    ('metrics', 'expected'),
    [
        ({'val/coco/bbox_mAP': 0.1234, 'val/coco/bbox_mAP_50': 0.3}, ['box mAP 0.123']),
        ({'val/aAcc': 80.0, 'val/mIoU': 12.34, 'val/mAcc': 20.0}, ['mIoU 12.3 %']),
        ({'val/accuracy/top1': 55.55, 'val/accuracy/top5': 90.0}, ['top-1 55.5 %']),
        ({'val/knn20_T0.07_top1': 29.0, 'val/knn20_T0.07_top5': 67.0, 'val/probe_miou': 3.0}, ['k-NN 29.0 %']),
        ({'val/patch_knn20_T0.07_miou': 41.0, 'val/patch_linear_miou': 43.0}, ['mIoU 41.0 %']),
        ({'val/patch_knn20_T0.07_miou': 41.0, 'val/knn': 29.0}, ['k-NN 29.0 %']),
        ({'val/own_metric': 1.0, 'train/accuracy_top1': 2.0}, []),
        ({}, []),
    ],
)
def test_one_number_of_the_last_validation_is_shown(metrics, expected):
    hub = MessageHub('headline')
    for name, value in metrics.items():
        hub.update_scalar(name, 0.0)
        hub.update_scalar(name, value)
    assert list(headline(hub)) == expected
