"""``mmadclr watch``: what it reads from the files of runs, and the view at any width."""

import json
from pathlib import Path

import pytest
from program import mmadclr
from written_runs import write_detection

from mmadclr.cli.watch import BARS, curve, read_run, sparkline, view, wrapped

CONFIG = "model = dict(max_epochs=3, type='ADCLR')\ntrain_cfg = dict(max_epochs=10, type='ResumableEpochLoop')\n"
LOG = '2026/01/01 00:00:00 - mmengine - INFO - Epoch(train)  [{epoch}][{inner:>2}/20]  base_lr: 1e-3  loss: 1.0\n'
WARNING = '2026/01/01 00:00:00 - mmengine - WARNING - SIGTERM: stopped after iteration 30\n'
END = '2026/01/01 00:00:00 - mmengine - INFO - done     200 iterations in 0:10:00\n'


def record(iteration, loss, **more):
    return dict(loss=loss, loss_cls=loss / 2, time=0.5, images_per_s=128.0, epoch=1 + iteration // 20, iter=iteration) | more


def write(folder, start, records, log, config=CONFIG):
    data = folder / start / 'vis_data'
    data.mkdir(parents=True)
    (data / 'scalars.json').write_text('\n'.join(map(json.dumps, records)) + '\n{"loss": 1.0, "it')  # being written
    (data / 'config.py').write_text(config)
    (folder / start / f'{start}.log').write_text(log)


@pytest.fixture
def folder(tmp_path):
    """A run that was stopped after iteration 30 and resumed from the checkpoint of iteration 20."""
    folder = tmp_path / 'run'
    old = [record(10, 4.0), record(20, 3.0), {'knn20_top1': 12.5, 'step': 1}, record(30, 99.0)]
    write(folder, '20260101_000000', old, LOG.format(epoch=2, inner=10) + WARNING)
    new = [
        {'monitor/cls_rank': 7.0, 'step': 30},
        record(30, 2.5, memory=2048),
        {'knn20_top1': 25.0, 'data_time': 0.1, 'step': 2},
    ]
    write(folder, '20260101_010000', new, LOG.format(epoch=2, inner=10))
    (folder / 'epoch_1.pth').touch()
    (folder / 'shown').mkdir()
    (folder / 'shown' / 'crops.png').touch()
    return folder


def test_what_a_resumption_repeats_counts_once(folder):
    run = read_run(folder)
    assert [each['loss'] for each in run.train] == [4.0, 3.0, 2.5]
    assert run.metrics == {'knn20_top1': [12.5, 25.0]}
    assert (run.done, run.total, run.epochs, run.is_finished, run.message) == (30, 200, 10, False, None)
    assert run.files == {'checkpoint': 'epoch_1.pth', 'picture': 'shown/crops.png'}


def test_the_view_says_progress_time_left_memory_and_files(folder):
    run = read_run(folder)
    lines = view(run, run.written + 75.4, 200).splitlines()
    assert lines[0] == str(folder)
    assert lines[1] == '15%  epoch 2/10  iteration 30/200  0:01:25 left  128 images/s  2.0 GiB of GPU memory'
    assert lines[2].split() == ['loss', '2.5', BARS[7] + BARS[2] + BARS[0]]
    assert lines[4].split() == ['knn20_top1', '25', BARS[0] + BARS[7]]
    assert lines[5:] == ['checkpoint epoch_1.pth', 'picture shown/crops.png', 'last written 0:01:15 ago']


@pytest.mark.parametrize('columns', [20, 40, 80])
def test_no_line_is_wider_than_the_terminal(folder, columns):
    run = read_run(folder)._replace(folder=Path('run'), message='x' * 300)
    lines = view(run, run.written, columns).splitlines()
    assert max(map(len, lines)) <= columns
    assert lines[-1].startswith('last message: ')


def test_the_end_of_training_is_in_the_log_even_if_its_last_line_is_not_the_last_iteration(folder):
    log = next(folder.glob('20260101_010000/*.log'))
    log.write_text(log.read_text() + END)
    run = read_run(folder)
    assert (run.done, run.is_finished) == (200, True)
    lines = view(run, run.written, 100).splitlines()
    assert lines[1].startswith('100%  epoch 2/10  iteration 200/200  128 images/s')
    assert lines[-1] == 'finished'


def test_runs_by_iterations(tmp_path):
    line = '2026/01/01 00:00:00 - mmengine - INFO - Iter(train) [  50/1000]  loss: 1.0\n'
    write(tmp_path / 'a', '20260101_000000', [record(50, 1.0)], line, config='train_cfg = dict(max_iters=1000)')
    run = read_run(tmp_path / 'a')
    assert (run.total, run.epochs, run.done) == (1000, None, 50)


def test_a_run_of_detection(tmp_path):
    write_detection(tmp_path / 'detector')
    shown = view(read_run(tmp_path / 'detector'), 0.0, 60)
    assert '100%  iteration 20/20' in shown
    for name in ('loss_rpn_cls', 'loss_mask', 'coco/bbox_mAP'):
        assert name in shown


def test_a_checkpoint_that_is_removed_meanwhile_is_no_error(folder):
    (folder / 'epoch_2.pth').symlink_to(folder / 'removed.pth')
    assert read_run(folder).files['checkpoint'] == 'epoch_1.pth'


def test_a_run_that_has_just_started_has_logged_nothing_yet(tmp_path):
    start = tmp_path / 'b' / '20260101_000000'
    (start / 'vis_data').mkdir(parents=True)
    (start / 'vis_data' / 'config.py').write_text('broken (')
    assert view(read_run(tmp_path / 'b'), 0, 80).splitlines()[1:] == ['nothing logged yet', 'nothing written yet']
    (start / f'{start.name}.log').write_text('2026/01/01 00:00:00 - mmengine - INFO - hello\n')
    lines = view(read_run(tmp_path / 'b'), 0, 80).splitlines()
    assert lines[1:] == ['nothing logged yet', 'last written 0:00:00 ago']
    done = mmadclr('watch', tmp_path / 'b')
    assert (done.returncode, done.stderr) == (0, '')


@pytest.mark.parametrize(
    ('end', 'log', 'told'),
    [
        ('OutOfMemoryError: too little', '', 'OutOfMemoryError: too little'),
        (None, WARNING, 'SIGTERM: stopped after iteration 30'),
    ],
)
def test_runs_that_ended_before_their_time_say_so_and_are_over(folder, end, log, told):
    last = folder / '20260101_010000'
    (last / 'run.json').write_text(json.dumps({'command': 'mmadclr train x', 'end': end}))
    path = last / f'{last.name}.log'
    path.write_text(path.read_text() + log)
    run = read_run(folder)
    assert (run.is_over, run.is_finished) == (True, False)
    lines = view(run, run.written + 5, 100).splitlines()
    assert lines[-1] == f'not running: {told}'
    assert 'left' not in lines[1]


def test_a_run_that_was_resumed_after_a_stop_is_not_over(folder):
    first = folder / '20260101_000000'
    (first / 'run.json').write_text(json.dumps({'end': 'OutOfMemoryError: too little'}))
    assert not read_run(folder).is_over


def test_an_earlier_run_in_the_same_folder_is_left_out(tmp_path):
    fresh = '2026/01/02 00:00:00 - mmengine - INFO - method   DINO\nstart    random weights\n'
    for start, score, day in (('20260101_000000', 10.0, '01'), ('20260102_000000', 1.0, '02')):
        log = fresh.replace('01/02', f'01/{day}') + LOG.format(epoch=1, inner=20)
        write(tmp_path / 'run', start, [record(20, score), {'knn20_top1': score, 'step': 1}], log)
    assert read_run(tmp_path / 'run').metrics == {'knn20_top1': [1.0]}


def test_validations_that_a_resumption_repeats_count_once(folder):
    path = folder / '20260101_010000' / 'vis_data' / 'scalars.json'
    path.write_text(path.read_text().replace('"step": 2}', '"step": 1}'))
    assert read_run(folder).metrics == {'knn20_top1': [25.0]}


def test_bars_are_means_from_the_smallest_to_the_largest():
    assert sparkline([0, 7, 3.5], 10) == BARS[0] + BARS[7] + BARS[4]
    assert sparkline([0, 2, 8, 8], 2, '01') == '01'
    assert sparkline([5, 5], 10) == BARS[0] * 2
    assert sparkline([1, float('nan'), float('inf'), 2], 10, 'ab') == 'a!!b'
    assert sparkline([float('nan')], 10) == '!'
    assert curve('loss', [3.0, 1.0], 40, 'ab') == 'loss                 1 ba'


def test_fields_are_not_broken():
    assert wrapped(['aa', 'bb', 'cc'], 6) == ['aa  bb', 'cc']
    assert wrapped(['a' * 9, 'b'], 6) == ['a' * 9, 'b']


def test_the_command_prints_once_without_a_terminal_and_names_what_is_no_run(folder, tmp_path):
    done = mmadclr('watch', folder, folder, COLUMNS='60', PYTHONIOENCODING='ascii')
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.count('iteration 30/200') == 2
    assert done.stdout.isascii()
    assert '\x1b' not in done.stdout
    done = mmadclr('watch', tmp_path)
    assert done.returncode == 2
    assert f'{tmp_path} is not a work dir of a run: it has no folder <time> with a log' in done.stderr


def test_metrics_that_differ_in_their_ends_are_told_apart_in_a_narrow_terminal():
    lines = {curve(f'knn20_T0.07_top{top}', [1.0, 2.0], 40) for top in (1, 5)}
    assert {line.split()[0] for line in lines} == {'knn2..._top1', 'knn2..._top5'}
    assert all(len(line) <= 40 for line in lines)
