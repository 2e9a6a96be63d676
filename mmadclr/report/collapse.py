"""Whether the teacher of a run has collapsed, in words, from the statistics that it logged."""

from __future__ import annotations

from mmadclr.evaluation.verdicts import LIMITS, Term, judge_teacher, judge_term
from mmadclr.report.collect import Run
from mmadclr.report.literals import nested
from mmadclr.report.scalars import Series

TEACHER = 'teacher'
CENTER_MOMENTUM = 0.9  # of losses whose config does not set it
PATIENCE = 5


def terms(run: Run) -> list[str]:
    """Names of the loss terms with collapse statistics."""
    names = (name.removeprefix('monitor/') for name in run.monitor)
    return sorted({name.removesuffix('_entropy') for name in names if name.endswith('_entropy')})


def columns_of(run: Run, term: str) -> dict[str, list[float]]:
    """Observations of a term by statistic, those that have every statistic but ``leak``."""
    prefix = f'monitor/{term}_'
    found = {name.removeprefix(prefix): s for name, s in run.monitor.items() if name.startswith(prefix)}
    found = {name: s for name, s in found.items() if name != 'leak' or len(s.x) == len(found['entropy'].x)}
    points = {name: finite(s) for name, s in found.items()}
    if not points:
        return {}
    steps = sorted(set.intersection(*(set(values) for values in points.values())))
    steps = [step for step in steps if step > judged_from(run)]
    return {name: [values[step] for step in steps] for name, values in points.items()} | {'iteration': steps}


def finite(series: Series) -> dict[float, float]:
    return {x: y for x, y in zip(series.x, series.y, strict=True) if y is not None}


def judged_from(run: Run) -> float:
    """Iterations of warm-up and of the frozen last layer, which are not judged."""
    schedule = nested(run.config, 'default_hooks', 'schedule') or {}
    epochs = max(schedule.get('warmup_epochs') or 0, schedule.get('freeze_last_layer_epochs') or 0)
    return epochs * (iterations_per_epoch(run) or 0)


def iterations_per_epoch(run: Run) -> int | None:
    """From the row ``6 epochs x 46 iterations = 276 iterations`` of the summary."""
    words = run.facts.get('length', '').replace(',', '').split()
    return int(words[3]) if len(words) > 6 and words[3].isdecimal() else None


def settings_of(run: Run, term: str) -> Term:
    """Settings of a loss term, from the config and the scalars."""
    model = run.config.get('model') or {}
    head = nested(model, f'{term}_head') or nested(model, 'head') or {}
    loss = nested(model, f'loss_{term}') or nested(model, 'loss') or {}
    temperature = run.train.get(f'teacher_temp_{term}') or run.train.get('teacher_temp')
    last = temperature.y[-1] if temperature else None
    return Term(head.get('out_dim') or 65536, last or 0.04, loss.get('center_momentum') or CENTER_MOMENTUM)


def verdicts(run: Run) -> list[str]:
    """What is wrong at the end of the run; empty if nothing is."""
    patience = nested(run.config, 'default_hooks', 'monitor', 'patience') or PATIENCE
    found = []
    for term in terms(run):
        found += judge_term(columns_of(run, term), term, settings_of(run, term), patience)
    columns = columns_of(run, TEACHER)
    if {'distance', 'norm', 'momentum'} <= columns.keys():
        found += judge_teacher(columns, patience)
    return [verdict.text for verdict in found]


def health(run: Run) -> tuple[str, list[str]]:
    """``good``, ``bad`` or ``unknown``, and sentences that say why."""
    bad = verdicts(run)
    if bad:
        return 'bad', [f'{text[0].upper()}{text[1:]}.' for text in bad]
    names = terms(run)
    if not names:
        return 'unknown', ['This run has logged no collapse statistics.']
    counts = [len(columns_of(run, name)['iteration']) for name in names]
    if min(counts) == 0:
        return 'unknown', ['Too early to judge: there is no observation after warm-up yet.']
    return 'good', ['No sign of collapse.', *(sentence(name, columns_of(run, name)) for name in names)]


def sentence(name: str, columns: dict[str, list[float]]) -> str:
    """The newest statistics of a term beside their limits."""
    now = {key: values[-1] for key, values in columns.items()}
    return (
        f'{name}: entropy of the targets {now["entropy"]:.2f} of ln K (uniform from {LIMITS.uniform_entropy:g}), the most '
        f'used prototype gets {100 * now["top_share"]:.0f} % (one-hot from {100 * LIMITS.top_share:.0f} %), spread of the '
        f'features {now["spread"]:.2f} (constant up to {LIMITS.spread:g}).'
    )
