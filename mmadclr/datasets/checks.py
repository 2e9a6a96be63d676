"""Checks annotated data for errors before training, and reports file and item.

mmdet's and mmseg's loaders silently drop or misread many errors: categories missing from the class list,
annotations of missing images, labels beyond the number of classes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from mmengine import registry as root
from mmengine.logging import print_log

from mmadclr.datasets.class_folders import ClassFolders
from mmadclr.datasets.coco_checks import Usage, check_scored_file, coco_findings
from mmadclr.datasets.decoding import said
from mmadclr.datasets.findings import Findings
from mmadclr.datasets.image_dataset import READ_ERRORS, ImageDataset, load_rgb
from mmadclr.datasets.loaders import loading_of
from mmadclr.datasets.mask_checks import ClassSurvey, _mask_problem, segmentation_findings, setting_problems

__all__ = ['DatasetError', '_mask_problem', 'check_dataset']

MAX_SHOWN = 20


class DatasetError(ValueError):
    """Annotations do not match their images or the class list."""


def check_dataset(
    cfg: Mapping,
    num_items: int | None = None,
    allow_other_categories: bool = False,
    evaluator: Any = None,
    model: Mapping | None = None,
) -> str:
    """Checks the data set of a config and returns a one-line summary; logs unusual but valid findings.

    All records of an annotation file are checked; images and masks are opened only for the first ``num_items`` (None:
    all), and masks beyond those until all classes have occurred. ``cfg`` is resolved in mmengine's current default scope.
    Wrapped data sets (``dataset`` or ``datasets``) are checked, too.

    Args:
        cfg: Of the data set.
        num_items: Number of images to open.
        allow_other_categories: Allow annotations of categories outside the class list, which are ignored.
        evaluator: Config of the metric or metrics used with the data set.
        model: Config of the model, whose heads must match the classes of masks.

    Raises:
        DatasetError: Lists up to ``MAX_SHOWN`` problems with their files.
    """
    metrics = _metrics(evaluator)
    surveys: list[ClassSurvey] = []
    lines = [_check_part(part, num_items, allow_other_categories, metrics, model, surveys) for part in _parts(cfg)]
    findings = Findings()
    ClassSurvey.merged(surveys).judge(findings)
    _report(_name(cfg), findings)
    return '; '.join(lines)


def _parts(cfg: Mapping) -> Iterator[Mapping]:
    """The data sets inside wrappers."""
    inner = cfg.get('datasets') or ([cfg['dataset']] if isinstance(cfg.get('dataset'), Mapping) else None)
    if inner is None:
        yield cfg
        return
    for part in inner:
        yield from _parts(part)


def _metrics(evaluator: Any) -> list[Mapping]:
    metrics = evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]
    return [metric for metric in metrics if isinstance(metric, Mapping) and 'type' in metric]


def _check_part(
    cfg: Mapping, num_items: int | None, allow_other: bool, metrics: list[Mapping], model: Any, surveys: list[ClassSurvey]
) -> str:
    findings = Findings()
    for problem in _root_problems(cfg):
        findings.problem(problem)
    if not findings.problems:
        _check_kind(cfg, num_items, allow_other, metrics, model, surveys, findings)
    _report(_name(cfg), findings)
    return f'{_name(cfg)}: {"all" if num_items is None else f"the first {num_items}"} items OK'


def _report(name: str, findings: Findings) -> None:
    problems = findings.problems
    if problems:
        more = [f'and {len(problems) - MAX_SHOWN} more'] if len(problems) > MAX_SHOWN else []
        number = f'{len(problems)} problem{"" if len(problems) == 1 else "s"}'
        raise DatasetError('\n  '.join((f'{name} has {number}:', *problems[:MAX_SHOWN], *more)))
    for remark in findings.remarks[:MAX_SHOWN]:
        print_log(remark, 'current', logging.WARNING)


def _name(cfg: Mapping) -> str:
    where = [str(cfg[key]) for key in ('data_root', 'ann_file', 'split') if cfg.get(key)]
    where += [] if cfg.get('ann_file') else map(str, (cfg.get('data_prefix') or {}).values())
    return f'{cfg["type"]}({", ".join(where)})'


def _root_problems(cfg: Mapping) -> Iterator[str]:
    folder = cfg.get('data_root')
    drawn = str(cfg['type']).rpartition('.')[2].startswith(('Shapes', 'Scenes'))
    if folder and not drawn and '://' not in str(folder) and not Path(folder).is_dir():
        yield f'data_root {folder} does not exist; move the data there or set data_root of the data set in the config'


def _check_kind(
    cfg: Mapping,
    num_items: int | None,
    allow_other: bool,
    metrics: list[Mapping],
    model: Any,
    surveys: list[ClassSurvey],
    findings: Findings,
) -> None:
    """Checks known types of data sets; others are skipped."""
    with root.DATASETS.switch_scope_and_registry(cfg.get('_scope_')) as registry:
        component = registry.get(cfg['type'])
        if isinstance(component, type) and issubclass(component, ImageDataset):
            return _add(image_problems(registry.build(dict(cfg)), num_items), findings)
        if component is ClassFolders:
            dataset = registry.build({**cfg, 'lazy_init': True, 'pipeline': []})
            return _add(class_folder_problems(dataset, num_items), findings)
        if isinstance(component, type) and not _reads_as(component, 'CocoDataset') | _reads_as(component, 'BaseSegDataset'):
            return None
        # Resolves paths without loading annotations.
        dataset = registry.build({**cfg, 'lazy_init': True, 'pipeline': []})
    loading = loading_of(cfg.get('pipeline'))
    if _reads_as(type(dataset), 'BaseSegDataset'):
        _add(setting_problems(dataset, loading, metrics, model), findings)
        survey = segmentation_findings(dataset, num_items, loading, findings) if dataset.metainfo.get('classes') else None
        surveys.extend([survey] if survey else [])
        return None
    metrics = [metric for metric in metrics if str(metric['type']).rpartition('.')[2] == 'CocoMetric']
    kinds = [kind for metric in metrics for kind in _as_list(metric.get('metric', 'bbox'))]
    scored = dataset.test_mode or bool(metrics)
    has_to_score = any(not metric.get('format_only', False) for metric in metrics)
    usage = Usage(loading.with_mask or 'segm' in kinds, loading.poly2mask, scored, dataset.test_mode and not has_to_score)
    classes, img_dir = dataset.metainfo['classes'], dataset.data_prefix.get('img')
    if img_dir is None or not dataset.ann_file:
        missing = "data_prefix=dict(img='...')" if img_dir is None else "ann_file='...'"
        return findings.problem(f'{cfg["type"]} has no {missing}, the location of its images or annotations')
    findings.update(coco_findings(dataset.ann_file, img_dir, classes, usage, num_items, allow_other, loading))
    for metric in metrics:
        check_scored_file(dataset.ann_file, metric, findings)
    return None


def _add(problems: Iterator[str], findings: Findings) -> None:
    for problem in problems:
        findings.problem(problem)


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _reads_as(component: Any, name: str) -> bool:
    """Whether a class loads annotations exactly like the named class of mmdet or mmseg (subclasses may differ)."""
    bases = {cls.__name__: cls for cls in component.__mro__}
    return name in bases and component.load_data_list is bases[name].load_data_list


def image_problems(dataset: ImageDataset, num_items: int | None = None) -> Iterator[str]:
    """Images that cannot be decoded."""
    for index in islice(range(len(dataset)), num_items):
        try:
            load_rgb(dataset.path(index), dataset.pixels)
        except READ_ERRORS as error:
            yield f'{dataset.path(index)}: {said(error)}'


def class_folder_problems(dataset: ClassFolders, num_items: int | None = None) -> Iterator[str]:
    """Inconsistent folders and lists, and images that cannot be decoded, in a lazily built data set."""
    try:
        items = dataset.load_data_list()
    except (ValueError, FileNotFoundError) as error:
        yield str(error)
        return
    for item in islice(items, num_items):
        try:
            load_rgb(item['img_path'])
        except READ_ERRORS as error:
            yield f'{item["img_path"]}: {said(error)}'
