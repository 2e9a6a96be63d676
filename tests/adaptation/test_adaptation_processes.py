"""Two processes as one command: results of the main one, errors that one says, and a run that is that of one process."""

import json

import pytest
import torch
from comparisons import assert_same_state
from programs import python, python_on_ranks
from public_folders import write_folder

from mmadclr.adaptation.processes import on_main, said_once
from mmadclr.checkpoint import read_checkpoint


def run_case(name):
    return python_on_ranks(2, 'tests/adaptation/one_of_two.py', name, check=False, timeout=120)


def test_all_get_what_the_main_process_finds():
    assert [done.stdout.strip() for done in run_case('found')] == ['found [0, None] 0', 'found [0, None] 1']
    assert [done.stdout.strip() for done in run_case('nothing')] == ['found None'] * 2


def test_one_process_alone_does_its_work_itself():
    assert on_main(lambda: 3) == said_once(lambda: 3) == 3
    with pytest.raises(KeyError):
        said_once(lambda: {}['missing'])


@pytest.mark.long
@pytest.mark.parametrize(
    ('case', 'teller'), [('all', 0), ('main', 0), ('other', 1), ('alone', 1), ('slow', 0), pytest.param('stuck', 1)]
)
def test_an_error_is_said_by_one_process_and_ends_all(case, teller):
    done = run_case(case)
    lines = [[line for line in each.stderr.splitlines() if line.startswith('error: ')] for each in done]
    assert lines[teller] == [f'error: the input of process {teller} is wrong']
    assert lines[1 - teller] == []
    assert done[teller].returncode == 1
    assert done[1 - teller].returncode  # may be ended by what started it
    if case != 'stuck':  # there, the other process finds the connection closed
        assert not any('Traceback' in each.stderr for each in done)


@pytest.fixture
def arguments(image_folder, tmp_path):
    """The arguments of the command for a work dir, with a length that needs no patch of the plan."""
    data, weights = image_folder(count=40, size=(40, 44)), write_folder(tmp_path / 'weights')

    def make(name, *more, epochs=2):
        given = dict(weights=weights, data=data, size=28, budget='10m', workers=0, method='dino')
        given |= {'work-dir': tmp_path / name}
        options = [f'train_cfg.max_epochs={epochs}', 'default_hooks.checkpoint.max_keep_ckpts=3']
        return [
            '-m',
            'mmadclr',
            'adapt',
            *(str(p) for n, v in given.items() for p in (f'--{n}', v)),
            *more,
            '--cfg-options',
            *options,
        ]

    return make


def state_of(folder, epoch):
    return read_checkpoint(folder / f'epoch_{epoch}.pth')['state_dict']


@pytest.mark.slow
def test_two_processes_do_what_one_does_and_either_continues(arguments, tmp_path):
    one = python(*arguments('one', '--cfg-options', 'train_dataloader.batch_size=16'))
    first, second = python_on_ranks(2, *arguments('two', '--launcher', 'pytorch'))
    assert '16 images = 2 epochs' in one.stdout
    assert '16 images (8 on each of 2 processes) = 2 epochs' in first.stdout
    for part in ('retrieval', 'steps of', 'next     mmadclr export'):
        assert part in first.stdout
        assert part not in second.stdout
    results = [json.loads((tmp_path / name / 'adaptation.json').read_text()) for name in ('one', 'two')]
    for name in results[0]['measures']:
        for model in ('original', 'adapted', 'random'):
            found, expected = (each['measures'][name][model] for each in (results[1], results[0]))
            assert found == pytest.approx(expected, rel=2e-2 if model == 'adapted' else 1e-4, abs=1e-2)
    states = [state_of(tmp_path / name, 2) for name in ('one', 'two')]
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, atol=1e-3, rtol=1e-2)

    for name in ('training_is_done', 'adaptation.json', 'epoch_2.pth'):
        (tmp_path / 'two' / name).unlink()
    again, _ = python_on_ranks(2, *arguments('two', '--launcher', 'pytorch'))
    assert 'continuing the run' in again.stdout
    assert_same_state(state_of(tmp_path / 'two', 2), states[1])
    assert json.loads((tmp_path / 'two' / 'adaptation.json').read_text())['measures'] == results[1]['measures']

    for name in ('training_is_done', 'adaptation.json', 'epoch_2.pth'):
        (tmp_path / 'two' / name).unlink()
    alone = python(*arguments('two'))
    assert 'batch    16 images = 16 x 1 process' in alone.stdout
    for key, value in state_of(tmp_path / 'two', 2).items():
        torch.testing.assert_close(states[1][key], value, atol=1e-3, rtol=1e-2)


@pytest.mark.slow
def test_errors_of_two_processes_are_one_line(arguments, tmp_path, image_folder):
    few = image_folder(count=18, size=(40, 44), name='few')
    cases = [
        (['--size', '30'], 'error: --size 30 must be a multiple of the patch size 7'),
        (['--masks', str(tmp_path)], 'error: folder: '),
        (
            ['--data', str(few), '--cfg-options', 'train_dataloader.batch_size=10'],
            'error: train_dataloader.batch_size=10 on 2',
        ),
    ]
    for options, message in cases:
        done = python_on_ranks(2, *arguments('bad', '--launcher', 'pytorch'), *options, check=False)
        told = [line for each in done for line in each.stderr.splitlines() if line.startswith('error')]
        assert len(told) == 1
        assert told[0].startswith(message)
        assert all(each.returncode for each in done)
        assert not any('Traceback' in each.stderr for each in done)
    assert not (tmp_path / 'bad').exists()


def test_errors_of_the_input_are_said_before_processes_are_started(arguments):
    done = python(*arguments('bad', '--gpus', '2'), '--cfg-options', 'model.frozen=3', check=False)
    assert done.stderr.count('error: ') == 1
    assert 'model.frozen: DINO has no such argument; did you mean frozen_blocks?' in done.stderr
    assert 'torch' not in done.stderr


def test_a_run_is_not_continued_by_processes_that_cannot_share_its_steps(arguments, tmp_path):
    (tmp_path / 'run').mkdir()
    asked = dict(weights=str(tmp_path / 'weights'), data=str(tmp_path / 'images'), method='dino', seed=0, size=28)
    asked |= dict(labels=False, low_rank=None, masks=None, batch=16)
    asked |= dict(cfg_options=['default_hooks.checkpoint.max_keep_ckpts=3', 'train_cfg.max_epochs=2'])
    (tmp_path / 'run' / 'adapt.py').write_text(f'adaptation = {asked}\ntrain_dataloader = dict(batch_size=16)\n')
    done = python(*arguments('run', '--gpus', '3'), check=False)
    assert done.stderr.strip().startswith('error: ')
    assert 'steps of 16 images, which must be a multiple of the number of processes (3) to continue it' in done.stderr
    other = python(*arguments('run', '--gpus', '2', epochs=3), check=False)
    assert (
        'has a run with --cfg-options default_hooks.checkpoint.max_keep_ckpts=3 train_cfg.max_epochs=2, not ' in other.stderr
    )
