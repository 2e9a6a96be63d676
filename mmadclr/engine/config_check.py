"""Finds keys of a config that nothing would ever read, before anything is built."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    'convert_to_iter_based',
}
# Settings that are read without naming a type, by the last part of their path.
UNTYPED = {
    'auto_scale_lr': {'enable', 'base_batch_size'},
    'randomness': {'seed', 'diff_rank_seed', 'deterministic'},
    'dataset_check': {'num_items', 'allow_other_categories'},
    'env_cfg': {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'},
    'loss_cls': 'SelfDistillationLoss',
    'loss_query': 'SelfDistillationLoss',
    # mmengine's, mmdet's and mmpretrain's constructors, and ours.
    'paramwise_cfg': {
        *('custom_keys', 'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'flat_decay_mult', 'dwconv_decay_mult'),
        *('dcn_offset_lr_mult', 'bypass_duplicate', 'layer_decay_rate', 'decay_type', 'num_layers'),
        *('decay_rate', 'no_decay'),
    },
    'data_preprocessor': 'ViewPreprocessor',
    **{view: set(PhotometricRecipe.__dataclass_fields__) for view in RECIPES},
}
# Keys beyond the signature of the named type, read by whoever builds it, by the last part of their path.
EXTRA = {
    'norm_cfg': {'requires_grad'},  # mmcv
    'backbone_norm_cfg': {'requires_grad'},
    'dcn': {'fallback_on_stride'},  # mmdet
    'loss_cls': {'bg_cls_weight'},
    'init_cfg': {'which', 'prefix', 'allow'},  # DenseViT
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
    'dataset_check',
    'sharding',
} - {'self', 'cfg'}


def check_config(cfg: Mapping, overrides: Iterable[str] = ()) -> None:
    """Checks every component of a config against the signature it will be called with.

    Top-level names that no one reads are allowed in files (they are variables) unless they look like a misspelt key;
    from the command line (``overrides``: dotted keys) they are errors, because an override that changes nothing is one.

    Raises:
        ConfigError: Lists all problems, each with its key path and where possible the nearest valid name.
    """
    scope = cfg.get('default_scope') or our_registries.SCOPE
    registries = _registries(scope)
    problems = [*_misspelt_top_level(cfg), *_useless_overrides(overrides)]
    for name, value in cfg.items():
        if name == 'data_preprocessor' and scope != our_registries.SCOPE:
            continue  # merged into the model's by mmengine
        problems += _walk(name, value, registries)
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


def _walk(path: str, node: Any, registries: Sequence[Registry]) -> Iterator[str]:
    """Problems of a config node and all below it."""
    if isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from _walk(f'{path}.{i}', child, registries)
    if not isinstance(node, Mapping):
        return
    if isinstance(node.get('type'), str):
        yield from _check_component(path, node, registries)
    elif path.endswith('dataloader'):
        yield from _unknown(path, node, LOADER_KEYS, 'a data loader')
    elif (known := UNTYPED.get(path.rpartition('.')[2])) is not None:
        accepted = accepted_arguments(_find(known, registries)) if isinstance(known, str) else known
        yield from _unknown(path, node, accepted, path.rpartition('.')[2])
    for name, child in node.items():
        yield from _walk(f'{path}.{name}', child, registries)


def _check_component(path: str, node: Mapping, registries: Sequence[Registry]) -> Iterator[str]:
    name = node['type']
    component = _find(name, registries)
    if component is not None:
        accepted = accepted_arguments(component)
        if accepted is not None:
            accepted |= EXTRA.get(path.rpartition('.')[2], set())
        yield from _unknown(path, node, accepted, name)
    elif '.' not in name and '_scope_' not in node and not _is_mmcv_op(name):
        known = {key for registry in registries for key in registry.module_dict}
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


def _find(name: str, registries: Sequence[Registry]) -> Any:
    for registry in registries:
        component = registry.get(name)
        if component is not None:
            return component
    return None


def _is_mmcv_op(name: str) -> bool:
    """mmdet names operations (``RoIAlign``, ``nms``) that no registry lists."""
    ops = sys.modules.get('mmcv.ops')
    return hasattr(ops, name)


def _registries(scope: str) -> list[Registry]:
    """Those of the config's scope first, then ours; each falls back to its parent, mmengine's of the same kind."""
    modules = [our_registries]
    if scope not in (our_registries.SCOPE, 'mmengine'):
        modules.insert(0, importlib.import_module(f'{scope}.registry'))
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Registry)]
    children = [registry for registry in found if registry.scope != 'mmengine']  # the modules import the parents too
    parents = {registry.parent.name for registry in children if registry.parent is not None}
    roots = [value for value in vars(root_registries).values() if isinstance(value, Registry)]
    return children + [registry for registry in roots if registry.name not in parents]


def _hint(name: str, known: Iterable[str] | None) -> str:
    close = difflib.get_close_matches(name, [*(known or ())], n=1)
    return f'; did you mean {close[0]}?' if close else ''
