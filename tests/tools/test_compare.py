"""Comparisons from the command line."""

import json

import pytest
from suite_cases import write_data
from test_tools import ADCLR_DEMO, SHAPES, logged, tool

DINO_DEMO = 'configs/demo/dino_vittiny_shapes.py'
MOCO_DEMO = 'configs/demo/mocov3_vittiny_shapes.py'
SMALL = [
    'train_cfg.val_interval=1',
    'train_dataloader.num_workers=0',
    'train_dataloader.batch_size=8',
    'default_hooks.schedule.warmup_epochs=1',
    'default_hooks.logger.interval=1',
    'val_evaluator.knn.k=5',
]


@pytest.mark.long
@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nope.py'], 'error: config nope.py does not exist'),
        ([ADCLR_DEMO, DINO_DEMO, DINO_DEMO], 'error: two rows of the table would be named demo_dino_vittiny_shapes: '),
        (
            [ADCLR_DEMO, '--parts', 'knn', '--detection-options', 'train_cfg.max_iters=5'],
            'error: --detection-config and --detection-options require the part detection: add it to --parts',
        ),
        ([ADCLR_DEMO, '--parts', 'suite'], 'error: the dense suite needs --suite NAMES as well'),
        ([ADCLR_DEMO, '--parts', 'knn', '--suite', 'voc'], 'error: the dense suite needs suite in --parts as well'),
    ],
)
def test_bad_requests(tmp_path, arguments, message):
    done = tool('compare', *arguments, '--out', tmp_path / 'out', check=False)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(message)
    assert not (tmp_path / 'out').exists()


def test_configs_that_are_not_alike_are_refused_before_anything_runs(tmp_path):
    done = tool('compare', ADCLR_DEMO, MOCO_DEMO, '--out', tmp_path / 'out', '--parts', 'pretraining', check=False)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith('error: mocov3_vittiny_shapes and adclr_vittiny_shapes differ in local_views: ')
    assert line.endswith('or pass --allow-different local_views to accept the difference')
    assert not (tmp_path / 'out').exists()


@pytest.fixture(scope='module')
def compare(tmp_path_factory):
    """Runs a comparison of seconds a job; (folder, function of epochs and further arguments)."""
    folder = tmp_path_factory.mktemp('compare')
    changes = [*SMALL, *(change.format(root=folder / 'shapes') for change in SHAPES)]

    def run(epochs, *more, check=True):
        parts = ['--parts', 'pretraining', 'knn', '--seeds', '0', '1', '--epochs', epochs]
        arguments = [DINO_DEMO, ADCLR_DEMO, '--out', folder / 'out', *parts, '--cfg-options', *changes, *more]
        return tool('compare', *arguments, check=check, timeout=600)

    return folder / 'out', run


def results(folder):
    return {path.parent.relative_to(folder): path.read_text() for path in sorted(folder.rglob('result.json'))}


@pytest.mark.slow
def test_comparison_measures_goes_on_and_starts_anew(compare):
    out, run = compare
    first = run(2)
    content = json.loads((out / 'table.json').read_text())
    rows = content['rows']
    assert list(rows) == ['raw pixels', 'random initialization', 'dino_vittiny_shapes', 'adclr_vittiny_shapes']
    for method in ('dino_vittiny_shapes', 'adclr_vittiny_shapes'):
        for seed in ('0', '1'):  # the tool measures what the run's last validation measured
            validated = logged(out / method / f'seed{seed}' / 'pretraining', 'knn5_T0.07_top1')[-1]
            assert rows[method]['knn']['values'][seed] == pytest.approx(validated, abs=0.01)
    assert rows['dino_vittiny_shapes']['parameters'] == rows['adclr_vittiny_shapes']['parameters']
    assert (out / 'table.md').read_text() in first.stdout

    kept = results(out)
    assert run(2).stdout.count('already done: ') == len(kept) == 12
    assert results(out) == kept

    lost = out / 'adclr_vittiny_shapes/seed1/pretraining'
    (lost / 'result.json').unlink()  # as if it had been interrupted: it goes on from its last checkpoint
    again = run(2)
    assert again.stdout.count('running: ') == 1
    assert 'resumed' in (lost / 'output.log').read_text()
    table = json.loads((out / 'table.json').read_text())['rows']
    assert table['adclr_vittiny_shapes']['knn'] == rows['adclr_vittiny_shapes']['knn']

    finished = out / 'dino_vittiny_shapes/seed0/pretraining'
    tool('compare', finished, '--parts', 'pretraining', 'knn', '--seeds', '0', '--out', out.parent / 'runs', timeout=300)
    row = json.loads((out.parent / 'runs/table.json').read_text())['rows']['pretraining']
    for column in ('knn', 'images_per_s', 'parameters'):
        assert row[column]['values']['0'] == table['dino_vittiny_shapes'][column]['values']['0']

    broken = run(1, 'val_evaluator.dense.train.data_root=nowhere', check=False)
    assert broken.returncode == 1
    assert broken.stdout.count('config or options have changed, starting from scratch; moved the old folder to ') == 6
    assert broken.stdout.count('FAILED: ') == 12
    assert 'nowhere' in broken.stdout
    assert (
        broken.stderr.strip()
        .splitlines()[-1]
        .startswith('error: 12 jobs failed: random initialization, seed 0, pretraining;')
    )


@pytest.mark.slow
def test_the_dense_suite_is_a_column_whose_differences_are_tested(tmp_path):
    write_data(tmp_path, 'folder')
    out, changes = tmp_path / 'out', [*SMALL, *(change.format(root=tmp_path / 'shapes') for change in SHAPES)]
    suite = ['--suite', f'folder:own={tmp_path}/folder', '--suite-protocols', 'hummingbird', '--suite-size', '32']
    suite += ['--suite-set', 'hummingbird.memory=200', 'hummingbird.k=5']
    run = ['--parts', 'pretraining', 'suite', '--seeds', '0', '1', '--epochs', '1', *suite, '--cfg-options', *changes]
    tool('compare', DINO_DEMO, ADCLR_DEMO, '--out', out, *run, timeout=600)
    content = json.loads((out / 'table.json').read_text())
    column = 'suite folder:own hummingbird5_32_mem200_mIoU'
    cells = {row: cells[column] for row, cells in content['rows'].items() if column in cells}
    assert list(cells) == ['random initialization', 'dino_vittiny_shapes', 'adclr_vittiny_shapes']
    assert [row for row, cell in cells.items() if 'difference' in cell] == ['adclr_vittiny_shapes']
    for row, cell in cells.items():
        for seed, value in cell['values'].items():
            measured = json.loads((out / row.replace(' ', '_') / f'seed{seed}/suite/out/result.json').read_text())
            assert value == measured['metrics']['folder:own/hummingbird5_32_mem200_mIoU']['value']
    ours, theirs = cells['adclr_vittiny_shapes'], cells['dino_vittiny_shapes']
    assert ours['difference']['value'] == pytest.approx(ours['mean'] - theirs['mean'])
    assert 'differs from dino_vittiny_shapes by more than chance' in content['notes'][-1]
