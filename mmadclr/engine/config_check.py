"""Finds keys of a config that nothing would ever read, before anything is built."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mmengine import registry as root_registries
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmadclr import registry as our_registries
from mmadclr.datasets.photometric import RECIPES, PhotometricRecipe


class ConfigError(ValueError):
    """A config names components or arguments that do not exist."""


# Keys that mmengine itself takes out of a component's dict before it calls the component.
CONSUMED = {
    'type',
    '_scope_',
    '_delete_',
    'constructor',
    'paramwise_cfg',
}
# Settings that are read without naming a type, by the last part of their path.
UNTYPED = {
    'auto_scale_lr': {'enable', 'base_batch_size'},
    'randomness': {'seed', 'diff_rank_seed', 'deterministic'},
    'env_cfg': {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'},
    'loss_cls': 'SelfDistillationLoss',
    'loss_query': 'SelfDistillationLoss',
    'data_preprocessor': 'ViewPreprocessor',
    **{view: set(PhotometricRecipe.__dataclass_fields__) for view in RECIPES},
}
LOADER_KEYS = {*inspect.signature(DataLoader).parameters, 'num_batch_per_epoch', 'disable_subprocess_warning'}
RUNNER_KEYS = {
    *inspect.signature(Runner.__init__).parameters,
    'find_unused_parameters',
    'model_wrapper_cfg',
    'sync_bn',
    'compile',
    'activation_checkpointing',
    'efficient_conv_bn_eval',
    'custom_imports',
} - {'self', 'cfg'}


def check_config(cfg: Mapping, overrides: Iterable[str] = ()) -> None:
    """Checks every component of a config against the signature it will be called with.

    Top-level names that no one reads are allowed in files (they are variables) unless they look like a misspelt key;
    from the command line (``overrides``: dotted keys) they are errors, because an override that changes nothing is one.

    Raises:
        ConfigError: Lists all problems, each with its key path and where possible the nearest valid name.
    """
    problems = [*_misspelt_top_level(cfg), *_useless_overrides(overrides)]
    for name, value in cfg.items():
        problems += _walk(name, value)
    if problems:
        raise ConfigError('\n  '.join(('the config has keys that nothing would read:', *problems)))


def _misspelt_top_level(cfg: Mapping) -> Iterator[str]:
    for name in cfg:
        close = difflib.get_close_matches(name, RUNNER_KEYS, n=1, cutoff=0.85)
        if name not in RUNNER_KEYS and close:
            yield f'{name}: did you mean {close[0]}?'


def _useless_overrides(overrides: Iterable[str]) -> Iterator[str]:
    for key in overrides:
        top = key.split('.')[0]
        if top not in RUNNER_KEYS:
            yield f'{key}: no part of a run is called {top}{_hint(top, RUNNER_KEYS)}'


def _walk(path: str, node: Any) -> Iterator[str]:
    """Problems of a config node and all below it."""
    if isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from _walk(f'{path}.{i}', child)
    if not isinstance(node, Mapping):
        return
    if isinstance(node.get('type'), str):
        yield from _check_component(path, node)
    elif path.endswith('dataloader'):
        yield from _unknown(path, node, LOADER_KEYS, 'a data loader')
    elif (known := UNTYPED.get(path.rpartition('.')[2])) is not None:
        accepted = accepted_arguments(_find(known)) if isinstance(known, str) else known
        yield from _unknown(path, node, accepted, path.rpartition('.')[2])
    for name, child in node.items():
        yield from _walk(f'{path}.{name}', child)


def _check_component(path: str, node: Mapping) -> Iterator[str]:
    name = node['type']
    component = _find(name)
    if component is not None:
        yield from _unknown(path, node, accepted_arguments(component), name)
    elif '.' not in name and '_scope_' not in node:
        known = {key for registry in _registries() for key in registry.module_dict}
        yield f'{path}: there is no component {name!r}{_hint(name, known)}'


def _unknown(path: str, node: Mapping, accepted: set[str] | None, owner: str) -> Iterator[str]:
    for key in node.keys() - CONSUMED - (accepted or node.keys()):
        yield f'{path}.{key}: {owner} has no such argument{_hint(key, accepted)}'


def accepted_arguments(component: Callable) -> set[str] | None:
    """Names a class or function can be called with; None if it takes anything.

    A ``**kwargs`` in a constructor stands for the arguments of the next constructor along the inheritance.
    """
    if not inspect.isclass(component):
        parameters = inspect.signature(component).parameters
        return None if _takes_anything(parameters) else set(parameters)
    accepted: set[str] = set()
    for cls in component.__mro__:
        if '__init__' not in vars(cls):
            continue
        parameters = inspect.signature(cls.__init__).parameters
        accepted |= parameters.keys()
        if not _takes_anything(parameters):
            return accepted
    return None


def _takes_anything(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def _find(name: str) -> Any:
    for registry in _registries():
        component = registry.get(name)
        if component is not None:
            return component
    return None


def _registries() -> list[Registry]:
    """Ours first; each falls back to its parent, so mmengine's of the same kind are searched with it."""
    ours = [value for value in vars(our_registries).values() if isinstance(value, Registry)]
    parents = {registry.parent.name for registry in ours}
    roots = [value for value in vars(root_registries).values() if isinstance(value, Registry)]
    return ours + [registry for registry in roots if registry.name not in parents]


def _hint(name: str, known: Iterable[str] | None) -> str:
    close = difflib.get_close_matches(name, [*(known or ())], n=1)
    return f'; did you mean {close[0]}?' if close else ''
