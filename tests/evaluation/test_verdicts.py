"""Every verdict at its boundary, on made-up statistics."""

from __future__ import annotations

import json
import math

import pytest
from places import GOLDEN

from mmadclr.evaluation.verdicts import LIMITS, Term, judge_teacher, judge_term, trailing

K = 4096
TERM = Term(prototypes=K, teacher_temp=0.04, center_momentum=0.9)
HEALTHY = dict(entropy=0.4, kl=1.0, prototypes=500.0, top_share=0.02, spread=0.8, rank=50.0, cosine=0.7, leak=0.0)
TEACHER = dict(distance=0.01, momentum=0.996)


def columns(length, sound, changes):
    """``length`` observations, every 50 iterations; ``changes``: values, one or a list, that differ from a sound run."""
    values = {'iteration': [50 * (number + 1) for number in range(length)]} | sound | (changes or {})
    return {key: value if isinstance(value, list) else [value] * length for key, value in values.items()}


def judge(changes=None, length=5, patience=5):
    own = {key.removeprefix('teacher_'): v for key, v in (changes or {}).items() if key.startswith('teacher_')}
    other = {key: value for key, value in (changes or {}).items() if not key.startswith('teacher_')}
    moving = {'norm': [10 + 0.1 * number for number in range(length)]}
    teacher = judge_teacher(columns(length, TEACHER | moving, own), patience)
    return judge_term(columns(length, HEALTHY, other), 'cls', TERM, patience) + teacher


def kinds(*args, **kwargs):
    return [(verdict.kind, verdict.term) for verdict in judge(*args, **kwargs)]


def test_a_sound_run_has_none():
    assert kinds() == []


def test_terms_without_queries_have_no_leak():
    sound = {key: value for key, value in HEALTHY.items() if key != 'leak'}
    assert judge_term(columns(5, sound, {}), 'cls', TERM, 5) == []


UNIFORM = dict(entropy=1.0, kl=0.0, spread=0.0, cosine=1.0)
BAD = {
    'uniform': UNIFORM,
    'one-hot': dict(top_share=0.98),
    'features': dict(spread=0.01, cosine=1.0),
    'leak': dict(leak=0.1),
    'teacher-equals-student': dict(teacher_distance=0.0),
    'teacher-still': dict(teacher_norm=10.0),
}


@pytest.mark.parametrize('kind', BAD)
def test_each_symptom_has_its_verdict_alone(kind):
    assert kinds(BAD[kind]) == [(kind, '' if kind.startswith('teacher') else 'cls')]


@pytest.mark.parametrize('kind', BAD)
def test_nothing_is_said_before_patience_is_over(kind):
    assert kinds(BAD[kind], length=4) == []


def test_a_symptom_that_went_away_is_forgotten():
    """The plateau at ln K from which a healthy run sets out, and a single bad value."""
    assert kinds(dict(entropy=[1.0] * 6 + [0.9], kl=[0.0] * 6 + [0.5]), length=7) == []
    assert kinds(dict(top_share=[0.1, 0.95, 0.1, 0.95, 0.95]), patience=3) == []


@pytest.mark.parametrize(
    ('key', 'limit', 'bad', 'others', 'kind'),
    [
        ('entropy', LIMITS.uniform_entropy, 'above', dict(kl=0.0), 'uniform'),
        ('kl', LIMITS.uniform_kl * math.log(K), 'below', dict(entropy=1.0), 'uniform'),
        ('top_share', LIMITS.top_share, 'above', {}, 'one-hot'),
        ('spread', LIMITS.spread, 'below', {}, 'features'),
        ('leak', LIMITS.leak, 'above', {}, 'leak'),
        ('teacher_distance', LIMITS.distance, 'below', {}, 'teacher-equals-student'),
    ],
)
def test_boundaries(key, limit, bad, others, kind):
    sign = 1 if bad == 'above' else -1
    assert [name for name, _ in kinds({**others, key: limit * (1 + sign * 1e-6)})] == [kind]
    assert kinds({**others, key: limit * (1 - sign * 1e-6)}) == []


def test_a_teacher_that_ever_moved_is_not_still():
    """At the end of a schedule the momentum is 1."""
    assert kinds(dict(teacher_norm=[1.0, 2.0] + [3.0] * 8), length=10) == []


def texts(*args, **kwargs):
    return [verdict.text for verdict in judge(*args, **kwargs)]


def test_messages_name_numbers_and_remedies():
    (text,) = texts(UNIFORM)
    assert text.startswith('uniform collapse of cls: loss = 8.3178, ln K = ln 4096 = 8.3178; ')
    assert 'entropy 100.0 % of ln K) since iteration 50. Lower the teacher temperature (now 0.04; .02' in text
    (text,) = texts(BAD['one-hot'])
    assert 'one of 4096 prototypes gets 98 % of all tokens since iteration 50' in text
    assert 'center_momentum=0.9' in text
    (text,) = texts(BAD['leak'])
    assert 'backbone.bidirectional=True' in text
    (text,) = texts(dict(teacher_distance=0.0, teacher_momentum=0.0))
    assert 'the momentum of the teacher is 0; 0 copies the student' in text
    (text,) = texts(dict(teacher_norm=10.0, teacher_momentum=1.0))
    assert 'has not changed since iteration 50 (its momentum is 1; 1 never updates it)' in text


def test_since_is_where_the_symptom_began():
    (text,) = texts(dict(top_share=[0.1, 0.2] + [0.95] * 6), length=8)
    assert 'since iteration 150' in text


def test_trailing():
    assert [trailing(flags) for flags in ([], [True], [False, True, True], [True, False])] == [0, 1, 2, 0]


# Statistics of the monitor in runs of configs/demo/*_vittiny_shapes.py with default_hooks.logger.interval=10 and
# train_cfg.max_epochs=12 (8 with bidirectional=True); the last three with what their names say.
RECORDED = json.loads((GOLDEN.parent / 'monitored_runs.json').read_text())
EXPECTED = {
    'dino, center_momentum=1': {('one-hot', 'cls')},
    'dino, teacher_temp=.1': {('uniform', 'cls')},
    'adclr, bidirectional': {('leak', 'query')},
}


@pytest.mark.parametrize('name', RECORDED)
def test_verdicts_on_recorded_runs(name):
    """Judged after each observation, as in the run; the warm-up takes 2 epochs of 46 iterations."""
    found = set()
    for term, values in RECORDED[name].items():
        early = sum(iteration <= 92 for iteration in values['iteration'])
        for end in range(early + 1, len(values['iteration']) + 1):
            seen = {key: column[early:end] for key, column in values.items()}
            setting = TERM._replace(prototypes=64)
            verdicts = judge_teacher(seen, 5) if term == 'teacher' else judge_term(seen, term, setting, 5)
            found |= {verdict[:2] for verdict in verdicts}
    assert found == EXPECTED.get(name, set())
