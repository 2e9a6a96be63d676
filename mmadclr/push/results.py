"""Results of evaluations for the metadata of a model card: from files of our commands, and from the log of the run."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from mmadclr.report.evaluations import is_number, results_in

# Not measures of the model: settings of evaluations, and accuracies by which something was chosen.
NOT_RESULTS = re.compile(
    r'_lr\b|^lr$|held_out|best_on_val|_std$|^(resize|size|shots|seed|k|train_images|val_images|images)$'
)
SPLITS = ('val', 'valid', 'validation', 'test')


class Result(NamedTuple):
    """One number of one evaluation.

    ``dataset``: its name. ``metric``: its full name, with settings. ``low``, ``high``: ends of its interval, if known.
    ``source``: name of the file it comes from.
    """

    dataset: str
    metric: str
    value: float
    source: str
    low: float | None = None
    high: float | None = None

    @property
    def task(self) -> str:
        """Identifier of the task in the terms of the hub."""
        if 'iou' in self.metric.lower() or 'jaccard' in self.metric.lower():
            return 'image-segmentation'
        return 'image-classification' if re.search(r'top\d', self.metric) else 'image-feature-extraction'

    @property
    def kind(self) -> str:
        """Identifier of the metric in the terms of the hub, or the name if the hub has none."""
        if self.metric.endswith('top1'):
            return 'accuracy'
        return 'mean_iou' if self.metric.endswith('mIoU') else self.metric


def results_of_file(file: str | Path, data: str | None = None) -> list[Result]:
    """Numbers of a JSON file: of the dense suite, of an adaptation, of k-NN, linear or probe, or any other with numbers.

    Args:
        file: The file.
        data: Name of the images that an adaptation was measured on, which its file does not tell.

    Raises:
        FileNotFoundError, ValueError: There is no such file, or it has no results.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f'evaluation {file} does not exist: pass a JSON file written by an evaluation tool')
    content = read_json(path)
    if not isinstance(content, Mapping):
        raise ValueError(f'evaluation {file} is not a JSON object: pass a JSON file written by an evaluation tool')
    found = [result for result in _results(content, path, data) if math.isfinite(result.value)]
    if not found:
        raise ValueError(f'evaluation {file} has no numbers: pass a JSON file written by an evaluation tool')
    return found


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'evaluation {path} is not a JSON file: {error}') from error


def _results(content: Mapping, path: Path, data: str | None) -> Iterator[Result]:
    if is_suite(content):
        for name, found in content['metrics'].items():
            dataset, _, metric = name.partition('/')
            yield Result(dataset, metric, found['value'], path.name, found.get('low'), found.get('high'))
    elif is_adaptation(content):
        for name, measure in content['measures'].items():
            found = measure['adapted']
            if is_number(found.get('value')):  # undefined ones are null
                yield Result(data or path.stem, name, found['value'], path.name, found.get('low'), found.get('high'))
    else:
        inputs = content.get('inputs')
        named = inputs.get('val') if isinstance(inputs, Mapping) else None
        dataset = dataset_name(named) if isinstance(named, str) else data or path.stem
        numbers = {key: value for key, value in content.items() if key != 'inputs'}
        for each in results_in(numbers):
            if not NOT_RESULTS.search(each.name):
                yield Result(dataset, each.name, each.value, path.name, each.low, each.high)


def is_suite(content: Mapping) -> bool:
    """Whether this is the result of ``mmadclr dense``."""
    metrics = content.get('metrics')
    is_metrics = isinstance(metrics, Mapping) and all(isinstance(m, Mapping) and 'value' in m for m in metrics.values())
    return is_metrics and 'checkpoint' in content


def is_adaptation(content: Mapping) -> bool:
    """Whether this is the result of ``mmadclr adapt``."""
    measures = content.get('measures')
    return isinstance(measures, Mapping) and all(isinstance(m, Mapping) and 'adapted' in m for m in measures.values())


def dataset_name(folder: str) -> str:
    """A name for the images of a folder, without the folders above: that of the folder, or of the one it is a split of."""
    path = PurePath(folder.partition('?')[0].rstrip('/'))
    return path.parent.name if path.name.lower() in SPLITS and path.parent.name else path.name or 'images'
