"""Building evaluators of frozen features, including custom ones, and checking their interface and results."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

from mmadclr.config.components import check_arguments
from mmadclr.registry import METRICS

# The methods of which an evaluator must have one, by precedence, and their arguments; see ``FeatureEvalLoop``.
CALLS = {
    'of_model': ('model',),
    'of_shards': ('bank', 'features'),
    '__call__': ('bank', 'bank_labels', 'features', 'labels'),
}


def build_evaluator(config: Mapping, path: str) -> Any:
    """Builds an evaluator and checks its interface.

    Args:
        config: ``type`` is a class in ``METRICS``, the other keys are its arguments.
        path: Location in the config of the run.

    Raises:
        ValueError: An argument is missing or unknown, or the object does not have the interface of an evaluator.
    """
    kind = METRICS.get(config['type']) if isinstance(config['type'], str) else config['type']
    if kind is not None:  # otherwise build raises
        settings = {name: value for name, value in config.items() if name not in ('type', '_scope_')}
        check_arguments(kind, settings, path)
    evaluator = METRICS.build(config)
    _check_call(evaluator, path)
    return evaluator


def call_name(evaluator: Any) -> str | None:
    """The method in ``CALLS`` that is used to evaluate; None if there is none."""
    return next((name for name in CALLS if hasattr(evaluator, name)), None)


def _check_call(evaluator: Any, path: str) -> None:
    found, name = call_name(evaluator), type(evaluator).__name__
    if found is None:
        forms = ', '.join(f'{name}({", ".join(arguments)})' for name, arguments in CALLS.items())
        raise ValueError(f'{path}: {name} is not an evaluator of features: it must have one of {forms}')
    try:
        inspect.signature(getattr(evaluator, found)).bind(*CALLS[found])
    except TypeError as error:
        raise ValueError(f'{path}: {name} must have {found}({", ".join(CALLS[found])}): {error}') from error


def named_numbers(evaluator: Any, found: Any) -> dict[str, float]:
    """The result of an evaluator as floats.

    Raises:
        ValueError: It is not a dict of numbers.
    """
    name = type(evaluator).__name__
    if not isinstance(found, Mapping):
        raise ValueError(f'{name} returned {type(found).__name__}: an evaluator must return a dict of numbers by name')
    for key, value in found.items():
        is_number = isinstance(value, Real) or (isinstance(value, (Tensor, np.ndarray)) and value.shape == ())
        if not isinstance(key, str) or not is_number:
            raise ValueError(f'{name} returned {key!r}: {value!r}; an evaluator must return numbers by name')
    return {key: float(value) for key, value in found.items()}
