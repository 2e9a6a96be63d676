"""Run state beyond weights and optimizer that an exact resume needs, in plain types.

Loading a checkpoint must not execute anything in it, so only tensors, numbers, strings, and lists and dicts of these are
stored.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mmadclr.checkpoint.reading import Untrusted
from mmadclr.checkpoint.scalar_history import BoundedHistory


def random_state() -> dict[str, Any]:
    """States of all random generators of this process: Python, NumPy, torch and its GPU."""
    version, words, gauss = random.getstate()
    of_numpy: Any = np.random.get_state()  # noqa: NPY002
    kind, keys, position, has_gauss, cached = of_numpy
    state = {
        'python': [version, torch.tensor(words), gauss],
        'numpy': [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        'torch': torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restores the output of :func:`random_state`."""
    version, words, gauss = state['python']
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, keys, position, has_gauss, cached = state['numpy']
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


def plain_history(hub_state: Mapping[str, Any]) -> dict[str, Any]:
    """State of mmengine's ``MessageHub`` with histories in bounded, plain form, and without NumPy scalars."""
    scalars = {
        name: (buffer if isinstance(buffer, BoundedHistory) else BoundedHistory(*buffer.data)).plain()
        for name, buffer in hub_state['log_scalars'].items()
    }
    info = {
        name: value.item() if isinstance(value, np.generic) else value for name, value in hub_state['runtime_info'].items()
    }
    return {'log_scalars': scalars, 'runtime_info': info, 'resumed_keys': dict(hub_state['resumed_keys'])}


def history_of(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`plain_history`; drops objects written by other versions."""
    scalars = {name: scalar_history(state) for name, state in plain['log_scalars'].items()}
    scalars = {name: history for name, history in scalars.items() if history is not None}
    info = {name: value for name, value in plain['runtime_info'].items() if not isinstance(value, Untrusted)}
    known = {name: value for name, value in plain['resumed_keys'].items() if name in scalars or name in info}
    return {'log_scalars': scalars, 'runtime_info': info, 'resumed_keys': known}


def scalar_history(state: Any) -> BoundedHistory | None:
    """A history from its plain form, or from (N,) values and (N,) counts, the format of older checkpoints."""
    if isinstance(state, Mapping):
        return BoundedHistory.from_plain(state)
    if isinstance(state, (list, tuple)):
        return BoundedHistory(*(part.numpy() for part in state))
    return None
