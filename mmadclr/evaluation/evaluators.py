"""Evaluators of frozen features, those of one's own among them: what they must be, and what they must return."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

from mmadclr.config.components import check_arguments
from mmadclr.registry import METRICS

# The methods of which an evaluator has one, and their arguments; see ``FeatureEvalLoop``.
CALLS = {
    'of_model': ('model',),
    'of_shards': ('bank', 'features'),
    '__call__': ('bank', 'bank_labels', 'features', 'labels'),
}


def build_evaluator(config: Mapping, path: str) -> Any:
    """The evaluator of a config, checked before features are extracted.

    Args:
        config: Of a class in ``METRICS``.
        path: Where it stands in the config of the run.

    Raises:
        ValueError: An argument is missing or unknown, or it cannot be called as evaluators are.
    """
    kind = METRICS.get(config['type']) if isinstance(config['type'], str) else config['type']
    if kind is not None:  # else the registry says that there is no such class
        settings = {name: value for name, value in config.items() if name not in ('type', '_scope_')}
        check_arguments(kind, settings, path)
    evaluator = METRICS.build(config)
    _check_call(evaluator, path)
    return evaluator


def call_name(evaluator: Any) -> str | None:
    """Which of ``CALLS`` an evaluator has, the first one that it has; None for something else."""
    return next((name for name in CALLS if hasattr(evaluator, name)), None)


def _check_call(evaluator: Any, path: str) -> None:
    found, name = call_name(evaluator), type(evaluator).__name__
    if found is None:
        forms = ', '.join(f'{name}({", ".join(arguments)})' for name, arguments in CALLS.items())
        raise ValueError(f'{path}: {name} does not evaluate features: it must have one of {forms}')
    try:
        inspect.signature(getattr(evaluator, found)).bind(*CALLS[found])
    except TypeError as error:
        raise ValueError(f'{path}: {name} must have {found}({", ".join(CALLS[found])}): {error}') from error


def named_numbers(evaluator: Any, found: Any) -> dict[str, float]:
    """What an evaluator returned.

    Raises:
        ValueError: It is something else than numbers by name.
    """
    name = type(evaluator).__name__
    if not isinstance(found, Mapping):
        raise ValueError(f'{name} returned {type(found).__name__}: an evaluator must return a dict of numbers')
    for key, value in found.items():
        is_number = isinstance(value, Real) or (isinstance(value, (Tensor, np.ndarray)) and value.shape == ())
        if not isinstance(key, str) or not is_number:
            raise ValueError(f'{name} returned {key!r}: {value!r}; an evaluator must return numbers by name')
    return {key: float(value) for key, value in found.items()}
