"""Evaluators of frozen features, those of one's own among them: what they must be, and what they must return.

An evaluator is called with ``(bank, bank_labels, features, labels)`` of all processes. One that has ``of_shards`` gets
``(bank, features)`` there instead, what this process holds of both (:class:`mmadclr.evaluation.feature_shards.Shard`).
Either returns numbers by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

from mmadclr.config.components import check_arguments
from mmadclr.evaluation.feature_shards import Shard
from mmadclr.registry import METRICS

WHOLE, IN_SHARDS = ('bank', 'bank_labels', 'features', 'labels'), ('bank', 'features')


def build_evaluators(configs: Mapping | Sequence[Mapping], key: str) -> list[Any]:
    """The evaluators of one config or of a list of them, checked before features are extracted.

    Args:
        configs: Of classes in ``METRICS``.
        key: Where they stand in the config.

    Raises:
        ValueError: One has no type, lacks an argument, or cannot be called as evaluators are.
    """
    if isinstance(configs, Mapping):
        return [_built(configs, key)]
    return [_built(config, f'{key}.{number}') for number, config in enumerate(configs)]


def _built(config: Mapping, key: str) -> Any:
    if not isinstance(config, Mapping) or 'type' not in config:
        raise ValueError(f'{key}={config!r} has no type: name the class of the evaluator')
    kind = METRICS.get(config['type']) if isinstance(config['type'], str) else config['type']
    if kind is not None:
        check_arguments(kind, {name: value for name, value in config.items() if name not in ('type', '_scope_')}, key)
    evaluator = METRICS.build(config)
    _check_call(evaluator, key)
    return evaluator


def _check_call(evaluator: Any, key: str) -> None:
    call, arguments = getattr(evaluator, 'of_shards', None), IN_SHARDS
    if call is None:
        call, arguments = evaluator, WHOLE
    name = f'{type(evaluator).__name__}{".of_shards" * (arguments is IN_SHARDS)}'
    if not callable(call):
        raise ValueError(f'{key}: {name} cannot be called with ({", ".join(arguments)}), as evaluators of features are')
    try:
        inspect.signature(call).bind(*arguments)
    except TypeError as error:
        raise ValueError(f'{key}: {name} cannot be called with ({", ".join(arguments)}): {error}') from error


def evaluate_all(evaluators: Iterable[Any], bank: Shard, features: Shard) -> dict[str, float]:
    """What all evaluators return, on every process; whole features are gathered if one of them needs these.

    Raises:
        ValueError: One returns something else than numbers by name, or two return different numbers by one name.
    """
    metrics: dict[str, float] = {}
    whole: tuple[Tensor, ...] | None = None
    for evaluator in evaluators:
        if hasattr(evaluator, 'of_shards'):
            found = evaluator.of_shards(bank, features)
        else:
            whole = whole or (*bank.whole(), *features.whole())
            found = evaluator(*whole)
        _add(metrics, found, type(evaluator).__name__)
    return metrics


def _add(metrics: dict[str, float], found: Any, name: str) -> None:
    if not isinstance(found, Mapping):
        raise ValueError(f'{name} returned {type(found).__name__}: an evaluator must return a dict of numbers')
    for key, value in found.items():
        is_number = isinstance(value, Real) or (isinstance(value, (Tensor, np.ndarray)) and value.shape == ())
        if not isinstance(key, str) or not is_number:
            raise ValueError(f'{name} returned {key!r}: {value!r}; an evaluator must return numbers by name')
        if key in metrics and metrics[key] != float(value):
            raise ValueError(f'{name} returned {key}, which is also the name of another number: give it a name of its own')
        metrics[key] = float(value)
