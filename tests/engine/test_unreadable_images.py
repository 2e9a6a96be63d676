"""Unreadable images in a run: listed once with their message, over starts and epochs; limited. Two processes: see faults."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmadclr.datasets import UnreadableImageError
from mmadclr.datasets.accounts import one_line
from mmadclr.engine import Runner
from mmadclr.reliability.skipped_steps import Step, add_to_record, describe_batches, explain


@pytest.fixture
def broken(small_config):
    """Trains on 12 images of which those numbered in the argument hold nothing; returns the runner."""

    def run(numbers, **overrides):
        cfg = small_config(overrides)
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        runner = Runner.from_cfg(cfg)
        dataset = runner.build_dataloader(cfg.train_dataloader, seed=0).dataset  # draws the images
        for number in numbers:
            dataset.path(number).write_bytes(b'')
        runner.train()
        return runner, [str(dataset.path(number)) for number in numbers]

    return run


def listed(runner):
    lines = open(f'{runner.work_dir}/unreadable_images.txt').read().splitlines()
    return sorted(line.partition(': ')[0] for line in lines), lines


def test_every_image_is_listed_once_with_its_message(broken):
    runner, names = broken([2, 5])
    assert listed(runner)[0] == names
    assert all(line.partition(': ')[2] for line in listed(runner)[1])


def test_images_found_late_in_an_epoch_are_listed_though_no_log_is_due(broken):
    runner, names = broken([2, 5], **{'default_hooks.logger.interval': 1000})
    assert listed(runner)[0] == names


def test_a_second_start_adds_what_is_new(broken):
    broken([2])
    runner, names = broken([2, 5])
    assert listed(runner)[0] == names


def test_the_limit_names_the_list(broken):
    with pytest.raises(UnreadableImageError, match=r'3 images cannot .*max_unreadable=2 \(listed in .*images\.txt\)'):
        broken([2, 5, 8], **{'default_hooks.unreadable.max_unreadable': 2})


def test_a_list_that_cannot_be_written_does_not_end_the_run(broken, monkeypatch):
    def full(*_, **__):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('mmadclr.datasets.accounts.append', full)
    runner, names = broken([2])
    log = open(f'{runner.log_dir}/{runner.timestamp}.log').read()
    assert names[0] in log
    assert 'unreadable_images.txt could not be written: [Errno 28] No space left on device' in log


def test_messages_of_several_lines_stay_one_line():
    assert one_line('a.jpg: broken\n  at byte 3\n') == 'a.jpg: broken at byte 3'
    assert one_line('two  blanks.jpg: x') == 'two  blanks.jpg: x'


@pytest.fixture
def odd_run(small_config, image_folder):
    """Trains two epochs on images of odd names, some of them broken; returns the runner and the bytes of the log."""

    def run(*names, write=lambda path: path.write_bytes(b''), **overrides):
        root = image_folder(count=12, classes=1)
        for name in names:
            write(root / name)
        cfg = small_config(overrides)
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        transform = dict(type='MultiCrop', global_size=32, local_size=16, num_local=2, query_size=8, num_query=2)
        cfg.train_dataloader.dataset = dict(type='ImageDataset', data_root=str(root), transform=transform)
        runner = Runner.from_cfg(cfg)
        runner.train()
        return runner, Path(runner.log_dir, f'{runner.timestamp}.log').read_bytes()

    return run


def test_names_that_are_no_unicode_are_listed_and_logged(odd_run):
    runner, log = odd_run(os.fsdecode(b'caf\xe9.png'), 'two\nlines.png', '-rf  "x".png')
    text = Path(runner.work_dir, 'unreadable_images.txt').read_bytes().decode()
    shown = sorted(line.partition(': ')[0].rpartition('/')[2] for line in text.splitlines())
    assert shown == ['-rf  "x".png', 'caf\\xe9.png', 'two\\nlines.png']
    for name in shown:
        assert (
            f'unreadable image, replaced by the next one: {runner.train_dataloader.dataset.data_root}/{name}: '
            in log.decode()
        )


def test_skipped_steps_of_such_names_are_recorded_in_valid_json(odd_run, tmp_path):
    runner, _ = odd_run(os.fsdecode(b'caf\xe9.png'))
    dataset = runner.train_dataloader.dataset
    step = Step(0, 0, {}, images=[list(range(len(dataset)))])
    batches = describe_batches(step, [{'loss': float('nan')}], dataset)
    add_to_record(tmp_path / 'skipped_steps.jsonl', step, batches)
    (line,) = (tmp_path / 'skipped_steps.jsonl').read_bytes().decode().splitlines()
    names = json.loads(line)['batches'][0]['images']
    assert any(name.endswith('/caf\\xe9.png') for name in names)
    explain(step, batches).encode()


def test_what_images_lose_is_said_once_and_counted_over_the_first_epoch(odd_run):
    def transparent(path):
        Image.new('RGBA', (40, 40), (9, 99, 199, 128)).save(path)

    _, log = odd_run('a.png', 'b.png', 'c.png', 'd.png', write=transparent)  # whole batches
    lines = log.decode().splitlines()
    met = [line for line in lines if 'some images have an alpha channel, which is not used' in line]
    counted = [line for line in lines if '4 images have an alpha channel, which is not used (the first: ' in line]
    assert len(met) == len(counted) == 1
    assert 'epoch 1: 4 images' in counted[0]


def test_12_bits_in_16_end_a_run_that_was_not_told_their_range(odd_run):
    def deep(path):
        Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40)).save(path)

    limit = {'default_hooks.unreadable.max_unreadable': 1}
    with pytest.raises(UnreadableImageError, match=r'16-bit pixels use only 0 to 1599 of 0 to 65535: set value_range'):
        odd_run('a.png', 'b.png', write=deep, **limit)
