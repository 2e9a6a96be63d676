"""Comparisons from the command line."""

import json

import pytest
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


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nope.py'], 'error: config nope.py does not exist'),
        ([ADCLR_DEMO, DINO_DEMO, DINO_DEMO], 'error: two rows of the table would be named demo_dino_vittiny_shapes: '),
        (
            [ADCLR_DEMO, '--parts', 'knn', '--detection-options', 'train_cfg.max_iters=5'],
            'error: --detection-config and --detection-options require the part detection: add it to --parts',
        ),
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
