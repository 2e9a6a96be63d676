"""Numbers that are not finite, and runs that collapse: real runs skip, stop, replay, and say what has happened."""

from __future__ import annotations

import json
import re

import pytest
import torch
from injection import CONFIG
from mmengine.config import Config
from places import REPO

from mmadclr.checkpoint import read_checkpoint
from mmadclr.checkpoint.run_files import checkpoints

pytestmark = pytest.mark.slow

POISON = REPO / 'tests' / 'engine'


def poisoned(tmp_path, iterations, rank=0):
    """The demo's config with NaN in the images of some iterations."""
    cfg = Config.fromfile(REPO / CONFIG)
    cfg.custom_imports = dict(imports=['poison'], allow_failed_imports=False)
    cfg.custom_hooks = [dict(type='poison.NaNImages', iterations=list(iterations), rank=rank)]
    path = tmp_path / 'poisoned.py'
    cfg.dump(path)
    return path


@pytest.fixture(autouse=True)
def _poison_can_be_imported(monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(POISON))


@pytest.mark.parametrize('processes', [1, 2])
def test_nan_images_are_skipped(training, tmp_path, record_fault, processes):
    run = training(config=poisoned(tmp_path, [2, 5], rank=processes - 1), processes=processes)
    assert run.wait(180) == 0, run.output()[-3000:]
    skipped = [json.loads(line) for line in (run.work_dir / 'skipped_steps.jsonl').read_text().splitlines()]
    assert len(skipped) == 2
    assert len(re.findall('skipped', run.output())) >= 2
    content = read_checkpoint(run.work_dir / 'epoch_2.pth')
    assert all(tensor.isfinite().all() for tensor in content['state_dict'].values())
    assert max(int(state['step']) for state in content['optimizer']['state'].values()) == 8 - 2
    record_fault(
        'NaN in an image',
        f'in 2 of 8 iterations, on one of {processes} process(es)',
        'these steps skipped on all processes: no parameter, moment, center or teacher moved; images named',
        times=2,
    )


def test_nan_after_nan_ends_the_run_and_can_be_replayed(training, tmp_path, record_fault):
    config = poisoned(tmp_path, range(3, 100))
    limit = 'default_hooks.runtime_info.max_skipped=3'
    run = training('train_cfg.max_epochs=5', limit, config=config)
    assert run.wait(180) == 1, run.output()[-3000:]
    assert 'Traceback' not in run.output()
    (dump,) = run.work_dir.glob('nonfinite_iter_*.pth')
    good = checkpoints(run.work_dir)
    assert dump not in good
    replay = training(limit, config=config, work_dir='replay', arguments=('--resume', str(dump)))
    assert replay.wait(180) == 1
    first = json.loads((replay.work_dir / 'skipped_steps.jsonl').read_text().splitlines()[0])
    assert first == json.loads((run.work_dir / 'skipped_steps.jsonl').read_text().splitlines()[0])
    healthy = training(work_dir='healthy', arguments=('--resume', str(dump)))
    assert healthy.wait(180) == 0
    record_fault(
        'NaN in every step from some step on',
        'all images from iteration 4 on',
        'ended after 3 skipped steps in a row; the dump replays the first of them, and goes on without the fault',
    )


COLLAPSES = {
    'teacher-still': (['default_hooks.schedule.momentum=1.0,1.0'], 'the teacher has not changed since iteration'),
    'teacher-equals-student': (['default_hooks.schedule.momentum=0.0,0.0'], 'teacher equals student since iteration'),
    'leak': (
        ['model.backbone.bidirectional=True', 'model.backbone.query_keys=image+queries'],
        r'\[CLS\] depends on the query tokens',
    ),
}


@pytest.mark.parametrize('kind', COLLAPSES)
def test_a_collapse_is_named_and_ends_the_run_on_request(training, record_fault, kind):
    options, verdict = COLLAPSES[kind]
    run = training('train_cfg.max_epochs=40', *options, f'default_hooks.monitor.stop_on={kind},')
    assert run.wait(240) == 1, run.output()[-3000:]
    assert re.search(verdict, run.output())
    assert checkpoints(run.work_dir)
    others = [text for name, (_, text) in COLLAPSES.items() if name != kind and re.search(text, run.output())]
    assert not others
    record_fault(f'collapse: {kind}', ' '.join(options), 'verdict in the log; run ended on request, with a checkpoint')


def test_a_sound_run_gets_no_verdict(training, record_fault):
    run = training('train_cfg.max_epochs=60')
    assert run.wait(240) == 0
    words = '|'.join(('collapse of', 'nearly the same for all images', *(text for _, text in COLLAPSES.values())))
    assert not re.search(words, run.output())
    assert torch.isfinite(torch.tensor([line['loss'] for line in run.records() if 'loss' in line])).all()
    record_fault('none', '240 iterations of the demo on 16 images', 'no verdict')
