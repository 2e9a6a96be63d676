"""Verdicts on collapse from the statistics of a run, in plain language with the usual remedies.

A new run also looks collapsed: its loss is ln K, and student and teacher are equal. So verdicts require
``patience`` consecutive bad observations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

KINDS = ('uniform', 'one-hot', 'features', 'leak', 'teacher-equals-student', 'teacher-still')


class Term(NamedTuple):
    """Settings of a loss term, for messages."""

    prototypes: int
    teacher_temp: float
    center_momentum: float


class Verdict(NamedTuple):
    """``kind`` is one of :data:`KINDS`; ``term`` names the loss term, '' for the full model."""

    kind: str
    term: str
    text: str


class Limits(NamedTuple):
    """Thresholds at which a statistic looks bad.

    Extreme values in three healthy runs of the demo (DINO, ADCLR, iBOT; 12 epochs, 552 iterations, 60 observations): entropy
    at most .21 of ln K, KL at least .22 nats (.05 of ln K), top share at most .45, spread at least .57, distance at least
    6e-3; the cosine reaches .97, so a high value is not a symptom. DINO without centering ends at a top share of .75 to .91,
    and with a teacher temperature of .1 at an entropy of .97 of ln K and a KL of .02 nats.
    """

    uniform_entropy: float = 0.95  # minimum; of the teacher, fraction of ln K
    uniform_kl: float = 0.02  # maximum; fraction of ln K
    top_share: float = 0.7  # minimum
    spread: float = 0.05  # maximum
    leak: float = 1e-2  # minimum; relative change of [CLS], 0 up to rounding if image tokens do not attend to query tokens
    distance: float = 1e-6  # maximum; relative, of teacher and student


LIMITS = Limits()

Values = Mapping[str, float]
Columns = Mapping[str, Sequence[float]]


def is_uniform(now: Values, term: Term) -> bool:
    """The teacher's targets are uniform, and the student agrees."""
    return now['entropy'] >= LIMITS.uniform_entropy and now['kl'] <= LIMITS.uniform_kl * math.log(term.prototypes)


def is_one_hot(now: Values, term: Term) -> bool:
    """One prototype receives nearly all tokens."""
    return now['top_share'] >= LIMITS.top_share


def is_constant(now: Values, term: Term) -> bool:
    """All tokens are projected to nearly the same point, and neither of the above holds."""
    return now['spread'] <= LIMITS.spread and not is_uniform(now, term) and not is_one_hot(now, term)


def is_leaking(now: Values, term: Term) -> bool:
    """[CLS] changes with the query tokens."""
    return now.get('leak', 0.0) >= LIMITS.leak


def explain_uniform(name: str, now: Values, term: Term, since: int) -> str:
    log_k = math.log(term.prototypes)
    return (
        f'uniform collapse of {name}: loss = {now["kl"] + now["entropy"] * log_k:.4f}, ln K = ln {term.prototypes} = '
        f'{log_k:.4f}; the teacher assigns all prototypes equally (entropy {100 * now["entropy"]:.1f} % of ln K) '
        f'since iteration {since}. Lower the teacher temperature (now {term.teacher_temp:g}; .02 helped in other runs), or '
        'extend the warm-up of temperature and learning rate; use a larger batch and, for small data, fewer prototypes '
        '(head.out_dim)'
    )


def explain_one_hot(name: str, now: Values, term: Term, since: int) -> str:
    return (
        f'one-hot collapse of {name}: one of {term.prototypes} prototypes gets {100 * now["top_share"]:.0f} % of all tokens '
        f'since iteration {since}: centering is too slow (center_momentum={term.center_momentum:g}; 1 never updates the '
        f'center). Lower center_momentum (.9), raise the teacher temperature (now {term.teacher_temp:g}), use precision fp32'
    )


def explain_constant(name: str, now: Values, term: Term, since: int) -> str:
    return (
        f'features of {name} are nearly the same for all images since iteration {since}: spread {now["spread"]:.3f} (1: '
        f'isotropic, 0: one point), effective rank {now["rank"]:.1f}. Check that the images differ; lower the '
        'learning rate or extend its warm-up, clip gradients (optim_wrapper.max_norm), use a larger batch'
    )


def explain_leak(name: str, now: Values, term: Term, since: int) -> str:
    return (
        f'[CLS] depends on the {name} tokens (with those of another image it changes by {100 * now["leak"]:.1f} %, since '
        f'iteration {since}): both views of an image have the same crops, so the loss can be lowered by copying. Check that '
        'image tokens do not attend to query tokens (backbone.bidirectional=True is for ablations only)'
    )


Symptom = tuple[str, Callable[[Values, Term], bool], Callable[[str, Values, Term, int], str]]
SYMPTOMS: tuple[Symptom, ...] = (
    ('uniform', is_uniform, explain_uniform),
    ('one-hot', is_one_hot, explain_one_hot),
    ('features', is_constant, explain_constant),
    ('leak', is_leaking, explain_leak),
)


def judge_term(columns: Columns, name: str, term: Term, patience: int) -> list[Verdict]:
    """Verdicts that hold for the last ``patience`` observations of a loss term.

    Args:
        columns: Values of every statistic, and ``iteration``, in order of observation.
        name, term: Of the loss.
        patience: Required number of consecutive bad observations.
    """
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    verdicts = []
    for kind, is_bad, explain in SYMPTOMS:
        lasted = trailing([is_bad(row, term) for row in rows])
        if lasted >= patience:
            since = int(rows[-lasted]['iteration'])
            verdicts.append(Verdict(kind, name, explain(name, rows[-1], term, since)))
    return verdicts


def judge_teacher(columns: Columns, patience: int) -> list[Verdict]:
    """Verdicts on how the teacher follows the student.

    Args:
        columns: ``distance`` of teacher and student, ``norm`` and ``momentum`` of the teacher, and ``iteration``.
        patience: See :func:`judge_term`.
    """
    norms, iterations = columns['norm'], columns['iteration']
    if len(norms) < patience:
        return []
    momentum = f'{columns["momentum"][-1]:g}'
    if trailing([norm == norms[-1] for norm in norms]) == len(norms):
        text = (
            f'the teacher has not changed since iteration {int(iterations[0])} (its momentum is {momentum}; 1 never updates '
            'it): the student learns random targets. Set momentum of the schedule to (.996, 1), and check that '
            'the learning rate is above 0'
        )
        return [Verdict('teacher-still', '', text)]
    equal = trailing([distance <= LIMITS.distance for distance in columns['distance']])
    if equal >= patience:
        text = (
            f'teacher equals student since iteration {int(iterations[-equal])} (the momentum of the teacher is {momentum}; '
            '0 copies the student), so nothing stabilizes the targets. Set momentum of the schedule to (.996, 1), and '
            'check that the networks do not share storage'
        )
        return [Verdict('teacher-equals-student', '', text)]
    return []


def trailing(flags: Sequence[bool]) -> int:
    """Length of the run of set flags at the end."""
    return next((number for number, flag in enumerate(reversed(flags)) if not flag), len(flags))
