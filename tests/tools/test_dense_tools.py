"""Detection, segmentation and probes from the command line: separate processes, real files, exit codes and messages."""

import json
import os
import pickle
import re

import numpy as np
import pytest
from PIL import Image
from places import REPO
from test_tools import ADCLR_DEMO, options, run, tool

from mmadclr.datasets.scenes import write_scenes
from mmadclr.datasets.shapes import write_shapes

pytestmark = pytest.mark.dense
DRAWN = ['num_train=16', 'num_val=10', 'image_size=32']
TASKS = {
    'detection': ('configs/benchmarks/demo/mask-rcnn_shapes.py', ('coco/bbox_mAP', 'coco/segm_mAP')),
    'segmentation': ('configs/benchmarks/demo/upernet_shapes.py', ('mIoU', 'mAcc', 'aAcc')),
}


def small(root, task):
    """Overrides that make a dense demo a matter of seconds."""
    loaders = [f'{name}_dataloader' for name in ('train', 'val', 'test')]
    changes = [f'{loader}.dataset.{change}' for loader in loaders for change in DRAWN]
    changes += [f'{loader}.num_workers=0' for loader in loaders] + ['train_dataloader.persistent_workers=False']
    changes += ['train_dataloader.batch_size=2', 'train_cfg.max_iters=2', 'train_cfg.val_interval=2']
    changes += ['default_hooks.checkpoint.interval=2', f'data_root={root}']
    # Untrained detectors are sure of nothing.
    return changes + (['model.test_cfg.rcnn.score_thr=0.0'] if task == 'detection' else [])


def printed(done):
    return json.loads(done.stdout[done.stdout.rindex('{') : done.stdout.rindex('}') + 1])


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    """The data of each task, drawn once."""
    folder = tmp_path_factory.mktemp('data')
    settings = dict(num_train=16, num_val=10, size=32)
    return {
        'detection': write_scenes(folder / 'scenes', **settings),
        'segmentation': write_shapes(folder / 'shapes', **settings),
    }


@pytest.mark.slow
@pytest.mark.parametrize('task', TASKS)
def test_two_processes_train_and_evaluate_as_one_evaluates(task, roots, tmp_path):
    config, metrics = TASKS[task]
    changes = ['--cfg-options', *small(roots[task], task)]
    work = tmp_path / 'work'
    done = run('tools/dist_train.sh', config, 2, '--work-dir', work, *changes)
    assert 'SyncBN is replaced by BN' in done.stdout + done.stderr
    arguments = [config, work / 'iter_2.pth', '--work-dir', tmp_path / 'test']
    alone = tool('test', *arguments, '--out', tmp_path / 'found.pkl', '--show-dir', tmp_path / 'shown', *changes)
    both = run('tools/dist_test.sh', *arguments[:2], 2, *arguments[2:], *changes)
    for name in metrics:
        assert printed(both)[name] == pytest.approx(printed(alone)[name], abs=2e-4), name
    with open(tmp_path / 'found.pkl', 'rb') as file:
        assert len(pickle.load(file)) == 10
    pictures = sorted((tmp_path / 'shown').rglob('*.png'))
    assert len(pictures) == 10
    originals = {np.asarray(Image.open(path)).shape for path in (roots[task] / 'val').rglob('*.png')}
    assert all(np.asarray(Image.open(path)).shape not in originals for path in pictures)  # beside the ground truth


def dense_options(roots):
    return [part for task in TASKS for part in (f'--{task}-options', *small(roots[task], task))]


@pytest.fixture(scope='module')
def demo(roots, tmp_path_factory):
    """The whole demo at a size of seconds: (work dir, what it printed)."""
    work = tmp_path_factory.mktemp('demo')
    pretraining = options(roots['segmentation'], 'train_dataloader.batch_size=8')
    done = tool('demo', '--work-dir', work, *pretraining, *dense_options(roots), timeout=600)
    return work, done.stdout


@pytest.mark.long
def test_demo_ends_with_the_table_and_its_summary(demo):
    work, text = demo
    summary = json.loads((work / 'summary.json').read_text())
    kinds = {f'{key}_{name}' for key in ('box_ap', 'mask_ap', 'miou') for name in ('pretrained', 'random')}
    frozen = {f'{key}_{name}' for key in ('knn', 'probe_miou') for name in ('pixels', 'random', 'teacher')}
    seconds = {f'seconds_{part}' for part in ('pretraining', 'detection', 'segmentation')}
    assert set(summary) == kinds | frozen | seconds | {'versions'}
    table = text[text.rindex('k-NN top-1') :]
    (teacher,) = [line for line in table.splitlines() if line.startswith('ADCLR teacher')]
    order = ('knn_teacher', 'probe_miou_teacher', 'box_ap_pretrained', 'mask_ap_pretrained', 'miou_pretrained')
    assert [float(word) for word in teacher.split() if word[0].isdigit()] == [round(summary[key], 1) for key in order]
    assert text.rstrip().splitlines()[-4:] == [
        *(f'picture: {os.path.relpath(work / f"{name}.png", REPO)}' for name in ('crops', 'curves', 'attention')),
        f'report: {os.path.relpath(work / "report.html", REPO)}',
    ]
    for kind in ('detection', 'segmentation'):
        assert all((folder / 'report.html').is_file() for folder in work.glob(f'{kind}_*')), kind
    for name in ('crops', 'curves', 'attention'):
        assert np.asarray(Image.open(work / f'{name}.png').convert('L')).std() > 10, name


@pytest.mark.long
def test_each_part_of_the_demo_shows_its_progress_and_no_dumps(demo):
    work, text = demo
    parts = re.split(r'^([A-Z]+, \w+).*$', text, flags=re.MULTILINE)
    assert parts[1::2] == ['PRETRAINING, after'] + [
        f'{task}, {name}' for task in ('DETECTION', 'SEGMENTATION') for name in ('pretrained', 'random')
    ]
    for part in parts[2::2]:
        assert re.search(r'^100%  .*loss \S+  .* images/s', part, re.MULTILINE)
        assert re.search(r'^done +\d iterations in ', part, re.MULTILINE)
    dumps = ('System environment', 'Hooks will be executed', 'mmengine - INFO', 'creating index', 'Could not import')
    assert [dump for dump in dumps if dump in text] == []
    logs = [path.read_text() for path in work.glob('detection_*/*/*.log')]
    assert [log.count('index created!') > 1 for log in logs] == [True, True], 'what pycocotools prints'


@pytest.mark.long
def test_parts_of_the_demo_run_alone_and_keep_the_other_numbers(demo, roots):
    work, _ = demo
    before = json.loads((work / 'summary.json').read_text())
    tool('demo', '--work-dir', work, '--parts', 'segmentation', *dense_options(roots))
    after = json.loads((work / 'summary.json').read_text())
    del before['seconds_segmentation'], after['seconds_segmentation']
    assert after == before


def test_parts_of_the_demo_need_their_checkpoint(tmp_path):
    done = tool('demo', '--work-dir', tmp_path, '--parts', 'detection', check=False)
    assert done.returncode != 0
    assert 'contains no pretrained checkpoint: run the part pretraining first' in done.stderr


@pytest.mark.long
def test_dense_probe_repeats_the_validation_of_the_run(demo, roots):
    work, _ = demo
    places = ['--data-root', roots['segmentation'], '--train', 'train', 'semantic/train', '--val', 'val', 'semantic/val']
    settings = ['--num-classes', 11, '--bank-size', 2000, '--k', 3, '--workers', 0]
    done = tool('dense_probe', work / 'epoch_2.pth', *places, *settings)
    summary = json.loads((work / 'summary.json').read_text())
    assert printed(done)['patch_linear_miou'] == pytest.approx(summary['probe_miou_teacher'], abs=0.011)


@pytest.mark.long
def test_pretraining_configs_are_tested_by_their_validation(demo, roots, tmp_path):
    work, _ = demo
    done = tool('test', ADCLR_DEMO, work / 'epoch_2.pth', '--work-dir', tmp_path, *options(roots['segmentation']))
    summary = json.loads((work / 'summary.json').read_text())
    assert printed(done)['knn5_T0.07_top1'] == pytest.approx(summary['knn_teacher'], abs=0.01)


@pytest.mark.long
def test_bad_annotations_end_training_before_it_starts(roots, tmp_path):
    scenes, root = roots['detection'], tmp_path / 'scenes'
    root.mkdir()
    for name in ('train', 'val', 'settings.json'):
        (root / name).symlink_to(scenes / name)
    (root / 'annotations').mkdir()
    for split in ('train', 'val'):
        content = json.loads((scenes / f'annotations/instances_{split}.json').read_text())
        content['annotations'][0]['category_id'] = 77
        (root / f'annotations/instances_{split}.json').write_text(json.dumps(content))
    config, _ = TASKS['detection']
    changes = ['--cfg-options', *small(root, 'detection')]
    message = 'instances_train.json: 1 annotations have category_id 77, which categories does not list'
    for command in ('train', 'check_dataset'):
        done = tool(command, config, '--work-dir', tmp_path / 'work', *changes, check=False)
        assert done.returncode != 0
        assert message in done.stderr
        assert 'Traceback' not in done.stderr
    assert not list((tmp_path / 'work').glob('*.pth'))


def test_checked_data_is_reported(roots):
    config, _ = TASKS['segmentation']
    done = tool('check_dataset', config, '--cfg-options', *small(roots['segmentation'], 'segmentation'))
    assert done.stdout.count('all items OK') == 2  # the test set is the validation set


@pytest.mark.long
@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([TASKS['detection'][0], 'nowhere.pth'], 'error: checkpoint nowhere.pth does not exist'),
        ([TASKS['detection'][0], 'a.pth', '--out', 'a.json'], 'error: --out a.json: predictions are written as pickle'),
        (
            [ADCLR_DEMO, 'a.pth', '--show-dir', 'x'],
            'error: --out and --show-dir are for detection, segmentation and classification',
        ),
        ([ADCLR_DEMO, 'a.pth', '--cfg-options', 'pretrained=x'], 'error: checkpoint a.pth does not exist'),
        (
            ['configs/benchmarks/coco/mask-rcnn_vits16_fpn_1x.py', 'README.md'],  # a file there is
            'data_root data/coco does not exist; move the data there or set data_root of the data set in the config',
        ),
    ],
)
def test_mistakes_end_with_a_message_not_a_traceback(arguments, message, tmp_path):
    done = tool('test', *arguments, '--work-dir', tmp_path, check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert 'Traceback' not in done.stderr
