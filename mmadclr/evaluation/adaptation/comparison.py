"""Comparison of a model before and after adaptation, and of random weights, with a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mmadclr.evaluation.adaptation.measuring import Measured, drift_of
from mmadclr.evaluation.adaptation.scores import MIOU, Kind, difference, interval, kind_of
from mmadclr.evaluation.dense.bootstrap import DRAWS, LEVEL, Difference, Interval

FEW_IMAGES = 500
SATURATED = 99.5  # percent
RANK_LOSS = 0.7
COLLAPSED_RANK = 1.5
MODELS = ('original', 'adapted', 'random')


class Row(NamedTuple):
    """One measure. ``units``: number of images. ``values``: by model. ``change``: adapted minus original; its p-value and
    significance are corrected for the number of deciding measures (Holm). ``verdict``: 'better', 'worse' or 'same'; for
    measures that only describe features 'higher', 'lower' or 'same'.
    """

    name: str
    kind: Kind
    units: int
    values: dict[str, Interval]
    change: Difference
    verdict: str
    decides: bool


class Comparison(NamedTuple):
    """``verdict``: 'better', 'worse', 'same', or 'mixed' if some deciding measures are better and others worse.

    ``summary``: the verdict in words. ``notes``: what limits it. ``drift``: of each model from the original.
    """

    verdict: str
    summary: str
    notes: tuple[str, ...]
    rows: tuple[Row, ...]
    drift: dict[str, dict[str, float]]
    images: int
    level: float


def compare(
    original: Measured, adapted: Measured, random: Measured | None = None, draws: int = DRAWS, level: float = LEVEL
) -> Comparison:
    """Compares measures on the same images; the deciding ones are those with labels, or without labels the label-free ones.

    Args:
        original, adapted, random: Of ``measure_backbone`` with the same arguments.
        draws: Of the bootstrap and of the permutation test.
        level: Confidence level.

    Raises:
        ValueError: The models were not measured on the same images, or by different measures.
    """
    given = dict(zip(MODELS, (original, adapted, random), strict=True))
    models = {name: model for name, model in given.items() if model is not None}
    drift = {name: drift_of(original.outputs, model.outputs) for name, model in models.items() if name != 'original'}
    _check_measures(models)
    rows = _decided([_row(name, models, draws, level) for name in original.scores], level)
    verdict = overall([row.verdict for row in rows if row.decides])
    images = len(original.outputs.indices)
    notes = tuple(_notes(rows, images, original.outputs.whole.shape[1], drift))
    return Comparison(verdict, summary(verdict, rows, level), notes, rows, drift, images, level)


def overall(verdicts: Sequence[str]) -> str:
    """The verdict of several measures: 'better', 'worse', 'same' or 'mixed'."""
    found = set(verdicts) - {'same'}
    return found.pop() if len(found) == 1 else 'mixed' if found else 'same'


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, by Holm's step-down method (Scandinavian Journal of Statistics, 1979)."""
    order = sorted(range(len(p_values)), key=lambda number: p_values[number])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[number]))
        corrected[number] = largest
    return corrected


def summary(verdict: str, rows: Sequence[Row], level: float) -> str:
    """The verdict in words, with the measures behind it and how sure they are."""
    deciding = [row for row in rows if row.decides]
    by = '; '.join(f'{row.name}: {word_of(row)}, {change_text(row, level)}' for row in deciding)
    kinds = _kinds_of(deciding)
    openings = {
        'better': 'The adapted model is better than the original on these images',
        'worse': 'The adapted model is worse than the original on these images: keep the original',
        'same': 'No difference between the adapted and the original model can be shown on these images: prefer the original',
        'mixed': 'The adapted model is better by some measures and worse by others: choose by the measure of your task',
    }
    return f'{openings[verdict]} (by {kinds}). {by}.'


def _kinds_of(deciding: Sequence[Row]) -> str:
    if not deciding[0].kind.labeled:
        return 'label-free measures, since there are no labels'
    masks = {row.kind is MIOU for row in deciding}
    return f'measures with {" and ".join(name for name, flag in (("labels", False), ("masks", True)) if flag in masks)}'


def word_of(row: Row) -> str:
    """The verdict of one measure in words."""
    return 'no difference shown' if row.verdict == 'same' else row.verdict


def change_text(row: Row, level: float) -> str:
    """The change of a measure with its interval and p-value."""
    found, p_value, _ = row.change
    return (
        f'{signed(found.value)} ({100 * level:g} % interval {signed(found.low)} to {signed(found.high)}, '
        f'p {p_text(p_value)}, {row.units} images)'
    )


def signed(value: float) -> str:
    """Three digits with a sign, at most four after the point."""
    return f'{round(value, 4):+.3g}'


def p_text(p_value: float) -> str:
    return '< .001' if p_value < 0.001 else f'= {p_value:.3f}'.replace('0.', '.')


def _check_measures(models: Mapping[str, Measured]) -> None:
    names = {model: list(measured.scores) for model, measured in models.items()}
    if any(found != names['original'] for found in names.values()):
        raise ValueError(f'the models were measured differently ({names}): pass the same data, labels and probe for each')


def _row(name: str, models: Mapping[str, Measured], draws: int, level: float) -> Row:
    scores = {model: measured.scores[name] for model, measured in models.items()}
    values = {model: interval(score, draws, level) for model, score in scores.items()}
    change = difference(scores['adapted'], scores['original'], draws, level)
    return Row(name, kind_of(name), len(scores['original'].tensors[0]), values, change, 'same', False)


def _decided(rows: Sequence[Row], level: float) -> tuple[Row, ...]:
    """Rows with verdicts; p-values of the deciding ones are corrected together."""
    labeled = any(row.kind.labeled for row in rows)
    decides = [row.kind.decides and (row.kind.labeled or not labeled) for row in rows]
    corrected = iter(holm([row.change.p_value for row, flag in zip(rows, decides, strict=True) if flag]))
    found = []
    for row, flag in zip(rows, decides, strict=True):
        p_value = next(corrected) if flag else row.change.p_value
        change = row.change._replace(p_value=p_value, significant=p_value < 1 - level)
        found.append(row._replace(change=change, verdict=verdict_of(row.kind, change), decides=flag))
    return tuple(found)


def verdict_of(kind: Kind, change: Difference) -> str:
    """The verdict of one measure; see ``Row``."""
    if not change.significant:
        return 'same'
    is_higher = change.interval.value > 0
    if not kind.decides:
        return 'higher' if is_higher else 'lower'
    return 'better' if is_higher == kind.higher else 'worse'


def _notes(rows: Sequence[Row], images: int, channels: int, drift: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    deciding = [row for row in rows if row.decides]
    for units in sorted({row.units for row in deciding if row.units < FEW_IMAGES}):
        yield _few_images(units, [row for row in deciding if row.units == units])
    if images <= channels:
        yield f'the rank is at most {images}, the number of images, for features of {channels} channels'
    for row in deciding:
        yield from _limits_of(row)
    ranks = next(row for row in rows if row.name == 'rank').values
    yield from _rank_notes({model: found.value for model, found in ranks.items()})
    undefined = [name for name, value in drift['adapted'].items() if math.isnan(value)]
    if undefined:
        yield f'{", ".join(undefined)} of the adapted model cannot be computed: features of a model are constant'


def _few_images(units: int, rows: Sequence[Row]) -> str:
    halves = [(row.name, (row.change.interval.high - row.change.interval.low) / 2) for row in rows]
    sizes = ', '.join(f'{half:.2g} of {name}' for name, half in halves if half > 0)
    limits = f', and changes below about {sizes} cannot be told from chance' if sizes else ''
    return f'only {units} images: intervals are wide{limits}; {FEW_IMAGES} or more images give a clearer result'


def _limits_of(row: Row) -> Iterator[str]:
    if row.kind.higher and min(row.values[model].value for model in MODELS[:2]) >= SATURATED:
        yield f'{row.name} is at its maximum for both models, so it cannot show an improvement'
    if 'random' in row.values and row.values['random'].high >= row.values['adapted'].value:
        yield f'{row.name} of the adapted model is not clearly above that of random weights'


def _rank_notes(ranks: Mapping[str, float]) -> list[str]:
    collapsed = [
        f'the {model} model has nearly the same features for all images (rank {ranks[model]:.1f}): it has collapsed'
        for model in MODELS[:2]
        if ranks[model] < COLLAPSED_RANK
    ]
    if not collapsed and ranks['adapted'] < RANK_LOSS * ranks['original']:
        change = f'{ranks["original"]:.0f} to {ranks["adapted"]:.0f}'
        return [f'the rank of the features fell from {change}: a partial collapse, or features of fewer kinds of images']
    return collapsed
