"""Checks the masks of mmseg data sets, as mmseg reads them, and the settings that define the meaning of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmadclr.datasets.findings import Findings
from mmadclr.datasets.label_maps import (
    IGNORED,
    LabelMapError,
    absent_classes,
    classes_among,
    count_labels,
    meanings,
    too_few_classes,
)
from mmadclr.datasets.loaders import Loading, hidden_turn, mask_labels, size_problem

IGNORE_INDEX = 255  # of mmseg's heads, metric and transforms by default
# Number of additional, evenly spaced masks to read until all classes have occurred.
MAX_SURVEYED = 2000


class ClassSurvey:
    """Which classes occur in masks.

    Attributes:
        counts: Pixels of every label in the files.
        meaning: Classes of labels; see ``label_maps.meanings``.
        names: Of the classes.
        where: Name of the masks in messages.
        seen, total: Number of checked masks, and of all.
    """

    def __init__(self, meaning: Mapping[int, int], names: Sequence[str], where: str, total: int) -> None:
        self.meaning, self.names, self.where, self.total = dict(meaning), tuple(names), where, total
        self.counts: Counter = Counter()
        self.seen = 0

    @classmethod
    def merged(cls, surveys: Sequence[ClassSurvey]) -> ClassSurvey:
        """One survey over the data sets of a concatenation; counts by class if meanings differ."""
        first = surveys[0] if surveys else cls({}, (), '', 0)
        if len(surveys) < 2:
            return first
        total = cls(first.meaning, first.names, ' and '.join(survey.where for survey in surveys), 0)
        for survey in surveys:
            total.total, total.seen = total.total + survey.total, total.seen + survey.seen
            if survey.meaning == first.meaning:
                total.counts.update(survey.counts)
            else:
                by_class = {name: label for label, name in first.meaning.items() if name != IGNORED}
                known = {x: by_class[name] for x, name in survey.meaning.items() if name in by_class}
                total.counts.update({known[x]: n for x, n in survey.counts.items() if x in known})
        return total

    @property
    def present(self) -> set[int]:
        return classes_among(self.counts, self.meaning)

    @property
    def complete(self) -> bool:
        """Whether every class has occurred."""
        return len(self.present) == len(self.names)

    def judge(self, findings: Findings) -> None:
        """Reports classes that do not occur: a problem if fewer than two are left, otherwise a remark."""
        if not self.seen:
            return
        problem = too_few_classes(self.counts, self.meaning, self.where)
        if problem:
            findings.problem(problem)
            return
        seen = f'{self.seen} masks' if self.seen == self.total else f'the {self.seen} checked masks of {self.total}'
        remark = absent_classes(self.present, self.names, self.where, seen)
        if remark:
            findings.remark(remark)


def segmentation_findings(dataset: Any, num_items: int | None, loading: Loading, findings: Findings) -> ClassSurvey | None:
    """Problems of the masks of an ``mmseg.BaseSegDataset`` (built lazily): missing, wrong size, unknown labels.

    Returns:
        The classes that occur, for :meth:`ClassSurvey.judge`; None for images without masks, or after a problem.
    """
    items = _items(dataset, findings)
    if not items or not dataset.data_prefix.get('seg_map_path'):
        return None  # without masks: images for prediction
    meaning = label_meanings(dataset)
    survey = ClassSurvey(meaning, dataset.metainfo['classes'], str(dataset.data_prefix['seg_map_path']), len(items))
    checked = len(items) if num_items is None else min(num_items, len(items))
    step = max(1, -(-(len(items) - checked) // MAX_SURVEYED))
    for number, item in enumerate([*items[:checked], *items[checked::step]]):
        if number >= checked and (survey.complete or findings.problems):
            break
        image_path = Path(item['img_path'])
        problem = _mask_problem(image_path, Path(item['seg_map_path']), set(meaning), loading, survey.counts)
        survey.seen += 1
        turn = hidden_turn(image_path)
        if problem:
            findings.problem(problem)
        elif turn:
            findings.remark(turn, 'turned')
    return None if findings.problems else survey


def _items(dataset: Any, findings: Findings) -> list[dict]:
    for folder in dataset.data_prefix.values():
        if folder and '://' not in str(folder) and not Path(folder).is_dir():
            findings.problem(f'folder {folder} does not exist')
            return []
    if dataset.ann_file and not Path(dataset.ann_file).is_file():
        findings.problem(f'ann_file {dataset.ann_file} does not exist')
        return []
    items = dataset.load_data_list()
    if not items:
        findings.problem(f'{dataset.data_prefix["img_path"]}: no images match *{dataset.img_suffix}')
    return items


def label_meanings(dataset: Any) -> dict[int, int]:
    """mmseg's interpretation of labels in files: first ``reduce_zero_label``, then classes chosen by name."""
    old = type(dataset).METAINFO.get('classes') or dataset.metainfo['classes']
    # With reduce_zero_label, 0 becomes "ignore" and other labels decrease by one.
    ignore = IGNORE_INDEX if dataset.reduce_zero_label else dataset.ignore_index
    meaning = meanings(len(old), ignore, dataset.reduce_zero_label)
    chosen = dataset.label_map or {}
    new = {label: chosen.get(name, name) if name != IGNORED else IGNORED for label, name in meaning.items()}
    return {label: IGNORED if chosen and name == IGNORE_INDEX else name for label, name in new.items()}


def _mask_problem(
    image_path: Path,
    mask_path: Path,
    allowed: set[int],
    loading: Loading = Loading(),  # noqa: B008
    counts: Counter | None = None,
) -> str | None:
    """Problem of a mask, if any; adds its labels to ``counts``."""
    try:
        labels = mask_labels(mask_path, image_path.name, loading)
    except LabelMapError as error:
        return str(error)
    size = size_problem(image_path, labels.shape[1], labels.shape[0], loading)
    if size:
        return f'mask {mask_path}: {size}'
    found = count_labels(labels)
    if counts is not None:
        counts.update(found)
    unknown = sorted(set(found) - allowed)
    if unknown:
        return f'mask {mask_path} has labels {unknown[:8]}, which are neither classes nor the ignored label'
    return None


def setting_problems(dataset: Any, loading: Loading, metrics: Sequence[Mapping], model: Mapping | None) -> Iterator[str]:
    """Settings of loader, model and metric that disagree with the data set on the meaning of labels."""
    classes = dataset.metainfo.get('classes')
    if not classes:
        yield f'{type(dataset).__name__} has no classes: set metainfo=dict(classes=(...))'
        return
    if loading.reduce_zero_label not in (None, dataset.reduce_zero_label):
        yield (
            f'LoadAnnotations has reduce_zero_label={loading.reduce_zero_label}, but its data set has '
            f'reduce_zero_label={dataset.reduce_zero_label}: set it only in the data set'
        )
    ignore = IGNORE_INDEX if dataset.reduce_zero_label else dataset.ignore_index
    for name, head in _heads(model):
        if head.get('num_classes', len(classes)) != len(classes):
            yield f'{name}.num_classes={head["num_classes"]}, but the data set has {len(classes)} classes: make them equal'
        if 'num_classes' in head and head.get('ignore_index', IGNORE_INDEX) != ignore:
            yield _ignores(name, head.get('ignore_index', IGNORE_INDEX), ignore)
    for metric in metrics:
        if str(metric['type']).rpartition('.')[2] == 'IoUMetric' and metric.get('ignore_index', IGNORE_INDEX) != ignore:
            yield _ignores('the evaluator', metric.get('ignore_index', IGNORE_INDEX), ignore)


def _ignores(name: str, found: int, ignored: int) -> str:
    return f'{name} ignores label {found}, but the data set ignores {ignored}: set both ignore_index to the same label'


def _heads(model: Mapping | None) -> Iterator[tuple[str, Mapping]]:
    for key in ('decode_head', 'auxiliary_head'):
        heads = (model or {}).get(key)
        for number, head in enumerate(heads if isinstance(heads, (list, tuple)) else [heads]):
            if isinstance(head, Mapping):
                yield f'model.{key}' if isinstance(heads, Mapping) else f'model.{key}[{number}]', head
