"""The command line as users meet it: separate processes, real files, exit codes and messages."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from comparisons import assert_same_state
from PIL import Image
from places import REAL_DATA, REPO
from programs import python, python_on_ranks

ADCLR_DEMO = 'configs/demo/adclr_vittiny_shapes.py'
SHAPES = [
    f'{loader}.dataset.{key}'
    for loader in ('train_dataloader', 'val_dataloader')
    for key in ('data_root={root}', 'num_train=16', 'num_val=10', 'image_size=32')
] + ['val_evaluator.dense.train.data_root={root}', 'val_evaluator.dense.k=3']
SMALL = [
    'train_cfg.max_epochs=2',
    'train_cfg.val_interval=2',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'default_hooks.schedule.warmup_epochs=1',
    'default_hooks.logger.interval=1',
    'default_hooks.checkpoint.interval=1',
    'default_hooks.checkpoint.max_keep_ckpts=-1',
    'val_evaluator.knn.k=5',
]

BAD_IMAGES = [
    'train_dataloader.dataset.data_root=tests/data/bad_images',
    'train_dataloader.num_workers=1',
    'train_dataloader.batch_size=1',
]


def run(*command, check=True, timeout=300):
    environment = os.environ | dict(OMP_NUM_THREADS='1', PYTHON=sys.executable, PYTHONWARNINGS='ignore', MPLBACKEND='Agg')
    done = subprocess.run(
        [str(part) for part in command], cwd=REPO, env=environment, capture_output=True, text=True, timeout=timeout
    )
    if check:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def tool(name, *arguments, **kwargs):
    return python(f'tools/{name}.py', *arguments, **kwargs)


def options(root, *more):
    return ['--cfg-options', *SMALL, *(option.format(root=root) for option in SHAPES), *more]


def state_dict(work_dir, epoch):
    return torch.load(work_dir / f'epoch_{epoch}.pth', weights_only=False)['state_dict']


def logged(work_dir, key):
    (path,) = work_dir.glob('*/vis_data/scalars.json')
    return [line[key] for line in map(json.loads, path.read_text().splitlines()) if key in line]


@pytest.fixture(scope='module')
def single(tmp_path_factory):
    """One process, batch 8: the run the others are compared with. Returns (data root, work dir)."""
    folder = tmp_path_factory.mktemp('single')
    tool('train', ADCLR_DEMO, '--work-dir', folder / 'work', *options(folder / 'shapes', 'train_dataloader.batch_size=8'))
    return folder / 'shapes', folder / 'work'


@pytest.mark.long
def test_two_processes_give_the_losses_and_weights_of_one(single, tmp_path):
    root, work = single
    # The loss in small chunks besides: how many rows there are at a time must not matter either.
    halves = ['train_dataloader.batch_size=4', 'model.loss_cls.logits_mib=0.01']
    run('tools/dist_train.sh', ADCLR_DEMO, 2, '--work-dir', tmp_path, *options(root, *halves))
    for epoch in (1, 2):
        assert_same_state(state_dict(work, epoch), state_dict(tmp_path, epoch), atol=1e-5)
    for key in ('loss', 'loss_cls', 'loss_query', 'lr'):
        assert logged(tmp_path, key) == pytest.approx(logged(work, key), abs=1e-5), key
    assert logged(tmp_path, 'knn5_T0.07_top1') == pytest.approx(logged(work, 'knn5_T0.07_top1'))


def test_knn_tool_repeats_the_validation_of_the_run(single, tmp_path):
    root, work = single
    arguments = [work / 'epoch_2.pth', '--train', root / 'train', '--val', root / 'val', '--k', 5, '--workers', 0]
    arguments += ['--resize', 32, '--dtype', 'float32']
    tool('knn', *arguments, '--out', tmp_path / 'one.json')
    metrics = json.loads((tmp_path / 'one.json').read_text())
    assert metrics['knn5_T0.07_top1'] == pytest.approx(logged(work, 'knn5_T0.07_top1')[-1])
    python_on_ranks(2, 'tools/knn.py', *arguments, '--out', tmp_path / 'two.json', '--launcher', 'pytorch')
    assert json.loads((tmp_path / 'two.json').read_text()) == metrics


def test_resume_continues_from_the_latest_checkpoint(single, tmp_path):
    root, work = single
    shutil.copy(work / 'epoch_1.pth', tmp_path)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    tool('train', ADCLR_DEMO, '--work-dir', tmp_path, '--resume', *options(root, 'train_dataloader.batch_size=8'))
    assert_same_state(state_dict(work, 2), state_dict(tmp_path, 2))


def test_bf16_trains_on_the_cpu_too(single, tmp_path):
    root, work = single
    tool('train', ADCLR_DEMO, '--work-dir', tmp_path, '--amp', 'bf16', *options(root, 'train_dataloader.batch_size=8'))
    assert all(value.dtype == torch.float32 for value in state_dict(tmp_path, 2).values())
    bf16, fp32 = logged(tmp_path, 'loss'), logged(work, 'loss')
    assert bf16 == pytest.approx(fp32, rel=0.02)
    assert bf16 != fp32


@pytest.mark.long
def test_own_folder_of_jpegs_needs_one_changed_line(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(10):
        pixels = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        (tmp_path / 'holiday').mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / 'holiday' / f'{number}.JPG')
    smaller = ['train_cfg.max_epochs=1', 'default_hooks.schedule.warmup_epochs=0', 'train_dataloader.batch_size=2']
    smaller += ['model.backbone.arch=vit_tiny_patch16_224', 'default_hooks.checkpoint.interval=1']
    line = f'train_dataloader.dataset.data_root={tmp_path / "holiday"}'
    tool('train', 'configs/adclr/vits16_folder.py', '--work-dir', tmp_path / 'work', '--cfg-options', line, *smaller)
    assert (tmp_path / 'work' / 'epoch_1.pth').is_file()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['configs/nowhere.py'], 'error: config configs/nowhere.py does not exist'),
        ([ADCLR_DEMO, '--cfg-options', 'max_epochs=3'], 'max_epochs: max_epochs is not a known top-level key'),
        ([ADCLR_DEMO, '--cfg-options', 'model.backbone.dept=3'], 'model.backbone.dept: QueryViT has no such argument'),
        ([ADCLR_DEMO, '--cfg-options', 'model.backbone.arch=vit_smol'], "error: arch 'vit_smol' is not a model of timm"),
        (
            ['configs/adclr/vits16_folder.py', '--cfg-options', 'train_dataloader.dataset.data_root=/nowhere'],
            'train_dataloader.dataset.data_root: folder /nowhere does not exist',
        ),
        (
            ['configs/adclr/vits16_folder.py', '--cfg-options', *BAD_IMAGES],
            'error: 2 consecutive images of 2 in tests/data/bad_images cannot be read',
        ),
        (
            [ADCLR_DEMO, '--cfg-options', 'train_dataloader.dataset.transform.query_size=12'],
            'train_dataloader.dataset.transform.query_size=12 must be a multiple of the patch size 8',
        ),
    ],
)
def test_mistakes_end_with_a_message_not_a_traceback(arguments, message, tmp_path):
    done = tool('train', *arguments, '--work-dir', tmp_path, check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(path.stem for path in (REPO / 'tools').glob('*.py')))
def test_tools_start_in_an_interpreter_of_their_own(name):
    """In most tests they are forked from a process that has libraries imported."""
    assert run(sys.executable, f'tools/{name}.py', '--help').stdout.startswith('usage: ')


@pytest.mark.slow
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason='the small real data sets are not here')
def test_real_photographs_train(tmp_path):
    smaller = ['model.backbone.arch=vit_tiny_patch16_224', 'train_cfg.max_epochs=2', 'train_cfg.val_interval=2']
    smaller += ['default_hooks.schedule.warmup_epochs=0.5', 'train_dataloader.num_workers=1']
    for key, split in (('train_dataloader.dataset', 'train'), ('val_dataloader.dataset', 'val'), ('val_cfg.bank', 'train')):
        smaller.append(f'{key}.data_root={REAL_DATA / "cls" / split}')
    tool('train', 'configs/adclr/vits16_small.py', '--work-dir', tmp_path, '--cfg-options', *smaller, timeout=3000)
    assert logged(tmp_path, 'knn20_T0.07_top1')[-1] > 10  # chance is 1.4
