"""A step that is not finite is as if it had never been, on all processes; too many of them end the run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from comparisons import assert_same_state
from poison import LeaveOut, NaNImages, Record
from torch import nn

from mmadclr.checkpoint import read_checkpoint
from mmadclr.cli.launch import report_bad_input
from mmadclr.engine import Runner
from mmadclr.engine.optimizers.constructors import SelfDistillationOptimConstructor

DEMOS = {name: f'configs/demo/{name}_vittiny_shapes.py' for name in ('adclr', 'dino', 'ibot')}
DROP = {'model.backbone.drop_path_rate': 0.3}  # so that torch's random state matters too
FROZEN = {'default_hooks.schedule.freeze_last_layer_epochs': 1}
SGD = {'optim_wrapper.optimizer': dict(_delete_=True, type='SGD', lr=0.1, momentum=0.9)}


def train(cfg, *hooks):
    runner = Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook, priority='LOWEST')
    runner.train()
    return runner


def assert_same_run(got, want) -> None:
    """Parameters of both networks, centers, moments and step counts, to the bit."""
    assert_same_state(want.model.state_dict(), got.model.state_dict())
    moments = [runner.optim_wrapper.optimizer.state_dict()['state'] for runner in (want, got)]
    assert moments[0].keys() == moments[1].keys()
    for key, state in moments[0].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(moments[1][key][name])), (key, name)


@pytest.mark.parametrize(
    ('method', 'settings', 'broken', 'left_out'),
    [
        ('adclr', DROP | FROZEN, [1], [1]),
        ('adclr', {'optim_wrapper.max_norm': None}, [0, 3], [0, 3]),
        ('adclr', {'optim_wrapper.accumulative_counts': 2}, [3], [2, 3]),
        ('adclr', SGD, [0, 2], [0, 2]),
        ('dino', DROP, [2], [2]),
        ('ibot', {'model.loss_patch.logits_mib': None}, [4], [4]),
    ],
    ids=['frozen last layer', 'first step, no clipping', 'accumulated', 'SGD', 'DINO', 'iBOT'],
)
def test_a_broken_step_is_as_if_it_had_not_been(small_config, method, settings, broken, left_out):
    make = lambda name: small_config(settings, work_dir=name, config=DEMOS[method])  # noqa: E731
    assert_same_run(train(make('broken'), NaNImages(broken)), train(make('left out'), LeaveOut(left_out)))


def build(optimizer=None, **kwargs):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    cfg = dict(optimizer=optimizer or dict(type='AdamW', lr=0.1), precision='fp32') | kwargs
    return model, SelfDistillationOptimConstructor(cfg)(model)


@pytest.mark.parametrize('value', [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize(
    'optimizer', [None, dict(type='AdamW', lr=0.1, fused=False), dict(type='SGD', lr=0.1, momentum=0.9)]
)
def test_a_broken_loss_with_sound_gradients_is_skipped(optimizer, value):
    """What is added to the loss has no derivative."""
    model, wrapper = build(optimizer)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    wrapper.update_params(model(torch.ones(1, 3)).sum() + value)
    assert wrapper.skipped.item() == 1
    assert_same_state(before, dict(model.named_parameters()))
    wrapper.update_params(model(torch.ones(1, 3)).sum())
    assert wrapper.skipped.item() == 0
    assert not torch.equal(before['weight'], model.weight)


def test_a_broken_gradient_with_a_sound_loss_is_skipped():
    """The derivative of the root at 0 is infinite, times 0 of the square: NaN, although the loss is finite."""
    model, wrapper = build()
    before = model.weight.detach().clone()
    wrapper.update_params((model.weight * 0).square().sum().sqrt() + model.bias.sum())
    assert wrapper.skipped.item() == 1
    assert torch.equal(model.weight, before)


def test_a_frozen_parameter_with_a_broken_gradient_stops_the_step_too():
    model, wrapper = build()
    wrapper.frozen = [model.weight]
    before = model.bias.detach().clone()
    wrapper.update_params((model.weight * 0).square().sum().sqrt() + model.bias.sum())
    assert torch.equal(model.bias, before)


def log_of(runner) -> str:
    return open(f'{runner.log_dir}/{runner.timestamp}.log').read()


def test_skipped_steps_are_told_written_down_and_left_out_of_the_mean(small_config):
    cfg = small_config({'default_hooks.logger.interval': 3, 'train_cfg.val_interval': 9})
    record = Record()
    runner = train(cfg, NaNImages([1, 5]), record)
    lines = [json.loads(line) for line in open(f'{runner.work_dir}/skipped_steps.jsonl')]
    assert [(line['iteration'], line['epoch']) for line in lines] == [(1, 1), (5, 2)]
    (batch,) = lines[0]['batches']
    source = runner.train_dataloader.dataset.source
    assert batch['images'] == [source.name(number) for number in record.images[1]]
    assert math.isnan(batch['losses']['loss_cls'])
    for line in lines:
        images = ', '.join(line['batches'][0]['images'])
        where = f'at iteration {line["iteration"]} (epoch {line["epoch"]}, rank 0), images [{images}]'
        assert f'step skipped: loss, loss_cls, loss_query not finite {where}' in log_of(runner)
    history = runner.message_hub.get_scalar('train/loss').data[0]
    assert history == pytest.approx([record.losses[i] for i in (0, 2, 3, 4)])
    scalars = [json.loads(line) for line in open(f'{runner.log_dir}/vis_data/scalars.json')]
    assert [line['skipped'] for line in scalars if 'loss' in line] == [1, 2]
    saved = read_checkpoint(f'{runner.work_dir}/epoch_2.pth')['message_hub']['runtime_info']
    assert (saved['skipped_steps'], saved['skipped_in_a_row']) == (2, 1)


def test_nothing_is_said_of_a_sound_run(small_config):
    runner = train(small_config())
    assert 'skipped' not in log_of(runner)
    assert 'train/skipped' not in runner.message_hub.log_scalars
    assert not Path(runner.work_dir, 'skipped_steps.jsonl').exists()


@pytest.mark.parametrize(('first', 'counts'), [(2, 1), (2, 2)], ids=['across epochs', 'accumulated'])
def test_too_many_in_a_row_end_the_run_and_can_be_replayed(small_config, first, counts):
    """From what the run leaves, one without the fault ends where it would have ended had there never been one."""
    settings = DROP | {'train_cfg.max_epochs': 3, 'optim_wrapper.accumulative_counts': counts}
    limit = {'default_hooks.runtime_info.max_skipped': 2, 'default_hooks.checkpoint.interval': 9}
    whole, sound, broken = Record(), Record(), Record()
    want = train(small_config(settings, work_dir='whole'), whole)
    with pytest.raises(
        FloatingPointError, match=r'^2 consecutive steps were skipped .*; there is no checkpoint yet; to replay'
    ):
        train(small_config(settings | limit, work_dir='broken'), NaNImages(range(first, 99)), broken)
    dump = f'{want.work_dir[:-5]}broken/nonfinite_iter_{first}.pth'
    assert max(broken.losses) == first + 2 * counts - 2  # the hook that ends the run comes first
    resume = {'resume': True, 'load_from': dump}
    assert_same_run(train(small_config(settings | resume, work_dir='replayed'), sound), want)
    assert min(sound.losses) == first
    assert all(whole.losses[i] == sound.losses[i] and whole.images[i] == sound.images[i] for i in sound.losses)
    again = Record()
    with pytest.raises(FloatingPointError, match='2 consecutive steps'):
        train(small_config(settings | limit | resume, work_dir='again'), NaNImages(range(first, 99)), again)
    assert {i: images for i, images in broken.images.items() if i >= first} == again.images


def test_the_count_goes_on_after_a_resumption(small_config):
    """Steps 3 to 5 are skipped, three in a row, of which one was before the checkpoint."""
    settings = {
        'train_cfg.max_epochs': 3,
        'default_hooks.checkpoint.by_epoch': False,
        'default_hooks.checkpoint.interval': 1,
    }
    limit = {'default_hooks.runtime_info.max_skipped': 3}
    first = train(small_config(settings, work_dir='first'), NaNImages([3]))
    resume = {'resume': True, 'load_from': f'{first.work_dir}/iter_4.pth'}
    with pytest.raises(FloatingPointError, match=r'^3 consecutive steps.*resume from .*nonfinite_iter_4\.pth'):
        train(small_config(settings | limit | resume, work_dir='second'), NaNImages([4, 5]))


def test_a_run_that_recovers_before_the_log_is_due_goes_on(small_config):
    settings = {'default_hooks.runtime_info.max_skipped': 2, 'default_hooks.logger.interval': 100}
    runner = train(small_config(settings), NaNImages([3, 4]))
    assert runner.message_hub.get_info('skipped_in_a_row') == 0
    assert runner.message_hub.get_info('skipped_steps') == 2


def test_the_process_ends_with_one_line(small_config):
    cfg = small_config({'default_hooks.runtime_info.max_skipped': 1})
    with pytest.raises(SystemExit, match='^error: 1 consecutive steps were skipped'):
        report_bad_input(lambda: train(cfg, NaNImages([2])))()
