"""Which curves a report shows: of one run, its scalars side by side; of several, each scalar with all runs in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mmadclr.evaluation.verdicts import LIMITS
from mmadclr.report.collapse import TEACHER, terms
from mmadclr.report.collect import Run
from mmadclr.report.scalars import Series, thinned
from mmadclr.report.story import measured


class Curve(NamedTuple):
    """A named line."""

    label: str
    series: Series


class Chart(NamedTuple):
    """One chart: ``caption`` says in plain words how to read it; ``limit`` is a line at which values look bad."""

    section: str
    title: str
    caption: str
    axis: str
    curves: list[Curve]
    limit: float | None = None


SCHEDULES = {
    'lr': ('learning rate', 'Of parameters without a factor of their own.'),
    'weight_decay': ('weight decay', 'Of all weights but biases and norms.'),
    'teacher_momentum': ('teacher momentum', 'Share of the old teacher that each step keeps.'),
    'teacher_temp': ('teacher temperature', 'Lower makes the targets sharper.'),
    'grad_norm': ('gradient norm', 'Before clipping.'),
}
STATISTICS = {
    'entropy': (
        'entropy of the targets',
        'Fraction of ln K. Near 1: all prototypes are equally likely.',
        LIMITS.uniform_entropy,
    ),
    'top_share': ('share of the most used prototype', 'Near 1: one prototype gets everything.', LIMITS.top_share),
    'spread': ('spread of the features', '1: in all directions; 0: a single point.', LIMITS.spread),
    'kl': ('teacher against student (nats)', 'KL divergence of their predictions: what is left to learn.', None),
    'prototypes': ('prototypes in use', 'Effective number.', None),
    'rank': ('effective rank of the features', 'RankMe of a few hundred tokens.', None),
    'cosine': ('cosine of teacher and student', 'High is normal in a trained network.', None),
    'leak': ('leak from query crops to [CLS]', 'Must stay at 0: images must not see the query crops.', LIMITS.leak),
}
OTHERS = {
    'images_per_s': ('images per second', 'Over all processes, mean of a window.'),
    'time': ('seconds per iteration', 'Mean of a window.'),
    'data_time': ('seconds waiting for images', 'Per iteration. Near 0: loading keeps up.'),
    'memory': ('GPU memory (MB)', 'Peak of this process.'),
}


def charts(runs: Sequence[Run], names: Sequence[str]) -> list[Chart]:
    """Charts of one run, or of several runs under ``names``; those without points are left out."""
    found = of_one(runs[0]) if len(runs) == 1 else compared(runs, names)
    return [chart for chart in found if any(len(curve.series.x) >= fewest(chart) for curve in chart.curves)]


def fewest(chart: Chart) -> int:
    """Points that a curve needs; a single validation is in the tables."""
    return 2 if chart.section == 'Quality' else 1


def of_one(run: Run) -> Iterator[Chart]:
    """Charts of one run."""
    losses = [Curve(name, run.train[name]) for name in loss_names(run)]
    yield Chart('Loss', 'loss and its terms', loss_caption(run), 'iteration', losses)
    yield from quality(run)
    for name in (name for name in SCHEDULES if name in run.train):
        yield Chart('Schedules', *SCHEDULES[name], 'iteration', [Curve(name, run.train[name])])
    for name, (title, caption, limit) in STATISTICS.items():
        curves = [Curve(term, run.monitor[f'monitor/{term}_{name}']) for term in terms(run) if has(run, term, name)]
        yield Chart('Collapse', title, caption, 'iteration', curves, limit)
    yield from distance(run)
    for name in (name for name in OTHERS if name in run.train):
        yield Chart('Speed', *OTHERS[name], 'iteration', [Curve(name, run.train[name])])


def has(run: Run, term: str, name: str) -> bool:
    return f'monitor/{term}_{name}' in run.monitor


def loss_names(run: Run) -> list[str]:
    """Names of losses, the total first."""
    return sorted((name for name in run.train if is_loss(name)), key=lambda name: (name != 'loss', name))


def is_loss(name: str) -> bool:
    return name.rpartition('.')[2].startswith('loss')


def loss_caption(run: Run) -> str:
    return 'Means over the window of the log, in nats.' if run.kind == 'pretraining' else 'Means over the window of the log.'


def quality(run: Run) -> Iterator[Chart]:
    """Charts of validations: k-NN, probes of patches, and all others by the first part of their name."""
    groups: dict[str, list[Curve]] = {}
    for name, found in run.validation.items():
        groups.setdefault(group_of(name), []).append(Curve(name, measured(name, found)))
    for title, curves in groups.items():
        yield Chart('Quality', title, QUALITY.get(title, 'As the evaluator has measured it.'), run.validation_axis, curves)


QUALITY = {
    'k-NN accuracy (%)': 'Frozen features of the teacher, classes of the nearest training images.',
    'dense probes, mIoU (%)': 'Frozen patch features of the teacher, classes of pixels.',
}


def group_of(name: str) -> str:
    if name.startswith('patch_'):
        return 'dense probes, mIoU (%)'
    if name.startswith('knn'):
        return 'k-NN accuracy (%)'
    return name.partition('_')[0] if '/' in name else 'validation'


def distance(run: Run) -> Iterator[Chart]:
    found = run.monitor.get(f'monitor/{TEACHER}_distance')
    if found:
        caption = 'Relative, of their weights. 0: they are the same network.'
        yield Chart('Collapse', 'distance of teacher and student', caption, 'iteration', [Curve('distance', found)])


def compared(runs: Sequence[Run], names: Sequence[str]) -> Iterator[Chart]:
    """One chart for each curve that any run has, with a line for each run."""
    merged: dict[tuple[str, str], Chart] = {}
    for run, name in zip(runs, names, strict=True):
        for chart in of_one(run):
            for curve in chart.curves:
                several = len(chart.curves) > 1 or chart.section in ('Loss', 'Quality', 'Collapse')
                title = curve.label if chart.section in ('Loss', 'Quality') else chart.title
                title = f'{chart.title}: {curve.label}' if several and chart.section == 'Collapse' else title
                caption = chart.title if chart.section == 'Quality' else chart.caption
                new = chart._replace(title=title, caption=caption, curves=[])
                merged.setdefault((chart.section, title), new).curves.append(Curve(name, curve.series))
    order = list(dict.fromkeys(chart.section for chart in merged.values()))
    yield from sorted(merged.values(), key=lambda chart: order.index(chart.section))


def as_data(chart: Chart) -> dict[str, Any]:
    """The chart for the script of the page; curves of thousands of points are thinned."""
    curves = [(curve.label, thinned(curve.series)) for curve in chart.curves]
    return {
        'axis': chart.axis,
        'limit': chart.limit,
        'curves': [{'label': label, 'x': found.x, 'y': found.y} for label, found in curves],
    }
