"""Verdicts of a report: those of the run itself, and sentences about healthy statistics."""

import json
from pathlib import Path

import pytest
from written_runs import monitor_record, write_session

from mmadclr.evaluation.verdicts import KINDS, Term, judge_term
from mmadclr.report.collapse import columns_of, health, judged_from, settings_of, terms, verdicts
from mmadclr.report.collect import collect

CONFIG = """\
default_scope = 'mmadclr'
model = dict(type='ADCLR', head=dict(out_dim=64), loss_cls=dict(center_momentum=0.99))
default_hooks = dict(schedule=dict(warmup_epochs=1, freeze_last_layer_epochs=0), monitor=dict(patience=3))
"""


def run_with(folder: Path, **changed: float):
    """A run of 2 epochs of 10 iterations with the same statistics at iterations 2, 4, ..., 20."""
    session = write_session(folder, records=[monitor_record(i, **changed) for i in range(2, 21, 2)])
    (session / 'vis_data' / 'config.py').write_text(CONFIG)
    return collect(folder)


def test_a_healthy_run(tmp_path):
    run = run_with(tmp_path)
    assert verdicts(run) == []
    kind, sentences = health(run)
    assert (kind, sentences[0]) == ('good', 'No sign of collapse.')
    assert sentences[1].startswith(
        'cls: entropy of the targets 0.20 of ln K (uniform from 0.95), the most used prototype gets 20 %'
    )


@pytest.mark.parametrize(
    ('changed', 'words'),
    [
        (dict(entropy=0.99, kl=0.01), 'uniform collapse of cls'),
        (dict(top_share=0.9), 'one-hot collapse of cls'),
        (dict(spread=0.01), 'features of cls are nearly the same'),
    ],
)
def test_collapsed_runs(tmp_path, changed, words):
    run = run_with(tmp_path, **changed)
    (text,) = verdicts(run)
    assert text.startswith(words)
    assert 'since iteration 12' in text  # the warm-up of 10 iterations is not judged
    columns = {name: [values[-1]] * 5 for name, values in columns_of(run, 'cls').items()} | {
        'iteration': [12, 14, 16, 18, 20]
    }
    (same,) = judge_term(columns, 'cls', Term(64, 0.04, 0.99), 3)
    assert text == same.text
    assert health(run)[0] == 'bad'


def test_what_verdicts_are_based_on(tmp_path):
    run = run_with(tmp_path)
    assert terms(run) == ['cls']
    assert judged_from(run) == 10
    assert settings_of(run, 'cls') == Term(64, 0.04, 0.99)
    assert columns_of(run, 'cls')['iteration'] == [12, 14, 16, 18, 20]
    assert len(KINDS) == 6


def test_too_early_and_nothing_to_judge(tmp_path):
    session = write_session(tmp_path / 'early', records=[monitor_record(2)])
    (session / 'vis_data' / 'config.py').write_text(CONFIG)
    assert health(collect(tmp_path / 'early')) == (
        'unknown',
        ['Too early to judge: there is no observation after warm-up yet.'],
    )
    write_session(tmp_path / 'none')
    assert health(collect(tmp_path / 'none'))[0] == 'unknown'


def test_a_teacher_that_never_changes(tmp_path):
    records = [
        {'monitor/teacher_distance': 0.1, 'monitor/teacher_norm': 5.0, 'monitor/teacher_momentum': 1.0, 'step': i}
        for i in range(2, 21, 2)
    ]
    session = write_session(tmp_path, records=records)
    (session / 'vis_data' / 'config.py').write_text(CONFIG)
    (text,) = verdicts(collect(tmp_path))
    assert text.startswith('the teacher has not changed since iteration 12')


def test_statistics_with_gaps(tmp_path):
    folder = write_session(tmp_path, records=[monitor_record(i) for i in range(12, 21, 2)])
    path = folder / 'vis_data' / 'scalars.json'
    path.write_text(path.read_text() + json.dumps(monitor_record(22, entropy=float('nan'))) + '\n')
    assert columns_of(collect(tmp_path), 'cls')['iteration'] == [12, 14, 16, 18, 20]
