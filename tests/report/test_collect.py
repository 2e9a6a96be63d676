"""What is collected from a work dir equals what the run has written, and whatever is missing is said."""

import json
import shutil
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from mmengine.config import Config
from written_runs import STAMP, monitor_record, train_record, write_session

from mmadclr.engine import Runner
from mmadclr.report.collect import collect
from mmadclr.report.evaluations import Result, as_evaluation, read_evaluations, suite_file
from mmadclr.report.story import is_complete, iterations_done, next_commands, status, time_shares, total_iterations

pytestmark = pytest.mark.all_hooks


@pytest.fixture
def resumed(small_config, train, tmp_path):
    """The work dir of a run of one epoch that was resumed for a second one."""
    train({'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1})
    time.sleep(1)  # sessions of the same second would share a folder
    cfg = small_config({'train_cfg.val_interval': 1})
    cfg.resume, cfg.experiment_name = True, f'{tmp_path.name}_again'
    cfg.work_dir = str(tmp_path / 'work')
    Runner.from_cfg(cfg).train()
    return tmp_path / 'work'


def lines_of(work):
    files = sorted(work.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_values_of_a_resumed_run_are_those_written(resumed):
    run = collect(resumed)
    lines = lines_of(resumed)
    for name in ('loss', 'loss_cls', 'loss_query', 'lr', 'weight_decay', 'teacher_momentum', 'images_per_s'):
        written = [(line['iter'], line[name]) for line in lines if name in line]
        assert list(zip(*run.train[name], strict=True)) == written
    assert run.train['loss'].x == [1, 2, 3, 4, 5, 6]
    for name in ('monitor/cls_entropy', 'monitor/query_leak', 'monitor/teacher_distance'):
        written = {line['step']: line[name] for line in lines if name in line}
        assert dict(zip(*run.monitor[name], strict=True)) == written
    found = {line['step']: line[name] for line in lines for name in line if name.endswith('top1')}
    accuracies = sorted(found.items())  # the second session repeats the validation with which the first ended
    (name,) = [name for name in run.validation if name.endswith('top1')]
    assert list(zip(*run.validation[name], strict=True)) == accuracies
    assert [x for x, _ in accuracies] == [1, 2]


def test_facts_of_a_resumed_run(resumed):
    run = collect(resumed)
    cfg = Config.fromfile(next(resumed.glob('*.py')))
    assert run.config['train_cfg'] == cfg.train_cfg.to_dict()
    assert (run.kind, run.method, run.validation_axis) == ('pretraining', 'ADCLR', 'epoch')
    assert (total_iterations(run), iterations_done(run), is_complete(run)) == (6, 6, True)
    assert [(s.end(run.now)) for s in run.sessions][-1] == 'completed'
    assert run.sessions[-1].start == 3
    assert run.notes == []
    assert run.checkpoints[0].name == 'epoch_2.pth'
    assert status(run)[1].startswith('Completed: 6 of 6 iterations in 0:00:')
    (knn,) = [line for _, line in next_commands(run) if line.startswith('mmadclr knn')]
    shapes = resumed.parent / 'shapes'
    assert knn == f'mmadclr knn {run.checkpoints[0]} --train {shapes / "train"} --val {shapes / "val"}'
    called = [line.split()[1] for _, line in next_commands(run)]
    assert called == ['show', 'knn', 'linear', 'dense', 'export', 'push']
    broken = next_commands(run._replace(unreadable=['a.png: cut off']))
    assert broken[0] == ('See which images are broken', f'mmadclr check-data {run.config_file}')


def test_where_the_time_went(tmp_path):
    records = [train_record(10), train_record(20, time=1.0, data_time=0.2)]
    log = [
        (40, 'INFO', 'Saving checkpoint epoch_1.pth (training paused for 1.5 s)'),
        (60, 'INFO', 'done     20 iterations in 0:00:30'),
    ]
    write_session(tmp_path, records=records, log=log)
    times = dict(time_shares(collect(tmp_path)))
    assert list(times.values()) == pytest.approx([15 + 8, 5 + 2, 1.5, 60 - 30 - 1.5])


def test_how_sessions_end(tmp_path):
    stop = 'SIGTERM: stopped after iteration 10; checkpoint saved, resume with --resume'
    first = write_session(tmp_path, '20260101_120000', [train_record(10)], [(9, 'WARNING', stop)])
    second = write_session(
        tmp_path, '20260101_130000', [train_record(11)], start='work/iter_10.pth, resumed after 10 iterations'
    )
    third = write_session(tmp_path, '20260101_140000', [train_record(12)], start='x, resumed after 11 iterations')
    (third / 'run.json').write_text(json.dumps({'end': 'CollapseError: uniform collapse', 'command': 'mmadclr train <x>'}))
    run = collect(tmp_path)
    assert [session.folder for session in run.sessions] == [first, second, third]
    later = datetime.now() + timedelta(hours=1)
    ends = [session.end(later) for session in run.sessions]
    assert ends == [stop, 'no end is recorded: it crashed or was killed', 'CollapseError: uniform collapse']
    assert run.sessions[1].end(datetime.now()).startswith('running')
    assert run.train['loss'].x == [10, 11, 12]
    assert status(run) == ('bad', 'Not complete: 12 of 20 iterations. CollapseError: uniform collapse.')


def test_a_run_that_starts_anew_leaves_the_old_one_and_evaluations_out(tmp_path):
    old = write_session(tmp_path, '20260101_120000', [train_record(5, loss=9.0)])
    new = write_session(tmp_path, '20260101_130000', [train_record(1), train_record(2)])
    crashed = write_session(tmp_path, '20260101_140000')  # before its first line
    tested = write_session(tmp_path, '20260101_150000', log=[(1, 'INFO', 'method   ADCLR\nweights  work/a.pth')], start=None)
    run = collect(tmp_path)
    assert [session.folder for session in run.sessions] == [new, crashed]
    assert {session.folder for session in run.others} == {old, tested}
    assert run.train['loss'].y == [1.0, 1.0]


def test_a_run_that_wrote_nothing_yet(tmp_path):
    write_session(tmp_path)
    run = collect(tmp_path)
    assert run.train == run.monitor == run.validation == {}
    assert [note.partition(':')[0] for note in run.notes] == [
        'there is no config in the work dir',
        'no training scalars',
        'no validation yet',
        'no checkpoint in the work dir',
    ]
    assert next_commands(run) == [('Start the run again', f'mmadclr train CONFIG --work-dir {tmp_path}')]


def test_skipped_steps_and_unreadable_images(tmp_path):
    write_session(tmp_path, records=[train_record(1)])
    batch = '{"losses": {"loss": NaN, "loss_cls": 1.0}, "images": ["a/<b>.png", "c.png"]}'
    step = f'{{"iteration": 4, "epoch": 3, "batches": [{batch}]}}'
    (tmp_path / 'skipped_steps.jsonl').write_text(f'{step}\n{{"iteration": 5\n{step[:30]}')
    (tmp_path / 'unreadable_images.txt').write_bytes(b'a\xff.png: cannot identify\n\nb.png: truncated\n')
    run = collect(tmp_path)
    assert (run.skips, run.skipped) == (1, [(4, 3, ['loss'], ['a/<b>.png', 'c.png'])])
    assert run.unreadable == ['a\ufffd.png: cannot identify', 'b.png: truncated']
    assert [note for note in run.notes if 'skipped_steps' in note] == [
        f'{tmp_path / "skipped_steps.jsonl"}: line 2 is not readable and was left out; remove or repair it'
    ]


def test_a_damaged_checkpoint_and_config_are_said(tmp_path):
    folder = write_session(tmp_path, records=[train_record(1)])
    (folder / 'vis_data' / 'config.py').write_text('a = = 1')
    (tmp_path / 'epoch_1.pth').write_bytes(b'PK nothing')
    run = collect(tmp_path)
    assert run.config == {}
    assert any(str(folder / 'vis_data' / 'config.py') in note for note in run.notes)
    assert any('epoch_1.pth' in note and 'use the previous checkpoint' in note for note in run.notes)


@pytest.mark.parametrize(
    ('make', 'error', 'message'),
    [
        (lambda path: path.mkdir(), ValueError, r'contains no run .*: name the --work-dir'),
        (lambda path: path.write_text('x'), ValueError, r'is a file, not the work dir of a run: name its folder'),
        (lambda path: None, FileNotFoundError, r'does not exist: name the work dir'),
        (lambda path: write_session(path / 'a'), ValueError, r'contains no run .*: there are runs in .*/a$'),
    ],
)
def test_folders_without_runs(tmp_path, make, error, message):
    path = tmp_path / 'place'
    make(path)
    with pytest.raises(error, match=message) as found:
        collect(path)
    assert str(path) in str(found.value)
    assert '\n' not in str(found.value)


def test_a_run_whose_only_file_is_not_json(tmp_path):
    folder = write_session(tmp_path)
    next(folder.glob('*.log')).unlink()
    scalars = folder / 'vis_data' / 'scalars.json'
    scalars.write_text('not json\nat all\n')
    with pytest.raises(ValueError, match=f'nothing of its runs can be read: {scalars}: 2 of 2 lines are not JSON'):
        collect(tmp_path)


def test_work_dirs_of_other_tasks(tmp_path):
    folder = write_session(
        tmp_path, records=[{'loss': 1.0, 'decode.loss_ce': 1.0, 'iter': 4, 'step': 4}, {'mIoU': 3.5, 'step': 4}]
    )
    text = "default_scope = 'mmseg'\nlog_processor = dict(by_epoch=False)\nmodel = dict(type='EncoderDecoder')\n"
    (folder / 'vis_data' / 'config.py').write_text(text)
    run = collect(tmp_path)
    assert (run.kind, run.validation_axis) == ('segmentation', 'iteration')
    assert run.validation['mIoU'] == ([4], [3.5])


def test_evaluations_with_intervals(tmp_path):
    content = {
        'knn10_top1': 40.5,
        'knn10_top1_std': 0.25,
        'val_images': 100,
        'summary': 'Better.',
        'notes': ['few images', 3],
        'top1': 50.0,
        'top1_ci95': [45.0, 55.0],
        'measures': {'rank': {'original': {'value': 6.4, 'low': 4.0, 'high': 9.2}, 'p': 0.5}},
        'flag': True,
    }
    found = as_evaluation('a.json', content)
    assert found.words == ['Better.', 'few images']
    assert found.results == [
        Result('knn10_top1', 40.5, std=0.25),
        Result('val_images', 100),
        Result('top1', 50.0, 45.0, 55.0),
        Result('measures.rank.original', 6.4, 4.0, 9.2),
        Result('measures.rank.p', 0.5),
    ]
    (tmp_path / 'knn.json').write_text(json.dumps(content))
    (tmp_path / 'broken.json').write_text('{')
    evaluations, (problem,) = read_evaluations(tmp_path)
    assert [each.file for each in evaluations] == ['knn.json']
    assert str(tmp_path / 'broken.json') in problem


def test_monitor_records_and_pictures(tmp_path):
    write_session(tmp_path, records=[monitor_record(1, 'query', leak=0.0)])
    (tmp_path / 'pictures').mkdir()
    for name in ('pictures/b.png', 'pictures/a.png', 'crops.png', 'curves.png'):
        (tmp_path / name).write_bytes(b'')
    run = collect(tmp_path)
    assert run.monitor['monitor/query_spread'] == ([1], [0.8])
    assert [path.relative_to(tmp_path).as_posix() for path in run.pictures] == [
        'crops.png',
        'pictures/a.png',
        'pictures/b.png',
    ]


def test_a_copied_work_dir_is_read_where_it_is(tmp_path):
    write_session(tmp_path / 'a', records=[train_record(1)])
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    run = collect(tmp_path / 'b')
    assert run.folder == Path(tmp_path / 'b')
    assert run.sessions[0].folder == tmp_path / 'b' / STAMP


def test_results_of_the_dense_suite_are_found_where_it_writes_them(tmp_path, monkeypatch):
    """Below the run, beside it, and in the default folder of this place; those of other runs of the same name are not."""
    work = tmp_path / 'runs' / 'mine'
    write_session(work)
    monkeypatch.chdir(tmp_path)

    def write(path, checkpoint, value):
        metrics = {'voc/hummingbird30_mIoU': {'value': value, 'low': value - 1, 'high': value + 1}}
        content = {'checkpoint': str(checkpoint), 'metrics': metrics, 'published': {'row': 70.0}, 'notes': ['a note']}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content | {'against': {}, 'results': {'voc.hummingbird': {'size': 512}}}))

    write(work / 'dense' / 'result.json', 'elsewhere.pth', 1.0)
    write(tmp_path / 'runs' / 'dense' / 'mine-epoch_2' / 'result.json', work / 'epoch_2.pth', 2.0)
    write(suite_file(work / 'epoch_3.pth').absolute(), 'runs/mine/epoch_3.pth', 3.0)
    write(suite_file(tmp_path / 'others' / 'mine' / 'epoch_4.pth').absolute(), tmp_path / 'others/mine/epoch_4.pth', 4.0)
    evaluations, problems = read_evaluations(work)
    assert problems == []
    assert {each.file: each.results for each in evaluations} == {
        'dense/result.json': [Result('voc/hummingbird30_mIoU', 1.0, 0.0, 2.0)],
        '../dense/mine-epoch_2/result.json': [Result('voc/hummingbird30_mIoU', 2.0, 1.0, 3.0)],
        '../../work_dirs/dense/mine-epoch_3/result.json': [Result('voc/hummingbird30_mIoU', 3.0, 2.0, 4.0)],
    }
    assert all(each.words == ['a note'] for each in evaluations)
