"""Unreadable images in a run: listed once with their message, over starts and epochs; limited. Two processes: see faults."""

import pytest

from mmadclr.datasets import UnreadableImageError
from mmadclr.engine import Runner
from mmadclr.engine.hooks.training_hooks import one_line


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
    with pytest.raises(
        UnreadableImageError, match=r'3 images cannot .*max_unreadable=2 \(all are listed in .*images\.txt\)'
    ):
        broken([2, 5, 8], **{'default_hooks.unreadable.max_unreadable': 2})


def test_a_list_that_cannot_be_written_does_not_end_the_run(broken, monkeypatch):
    def full(*_, **__):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('mmadclr.engine.hooks.training_hooks.append', full)
    runner, names = broken([2])
    log = open(f'{runner.log_dir}/{runner.timestamp}.log').read()
    assert names[0] in log
    assert 'unreadable_images.txt could not be written: [Errno 28] No space left on device' in log


def test_messages_of_several_lines_stay_one_line():
    assert one_line('a.jpg: broken\n  at byte 3\n') == 'a.jpg: broken at byte 3'
