"""Finds unknown keys in a config before anything is built."""

from __future__ import annotations

import difflib
import inspect
import logging
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.registry import Registry
from torch.utils.data import DataLoader

from mmadclr import registry as our_registries
from mmadclr.config.components import Node, accepted_arguments, find_component, nodes, registries_of, runner_keys
from mmadclr.config.default_hooks import default_hooks
from mmadclr.config.findings import ConfigError
from mmadclr.config.names import Reader, read_names
from mmadclr.names import printable

# Keys that mmengine removes from a component's dict before it calls the component.
CONSUMED = {
    'type',
    '_scope_',
    '_delete_',
    'constructor',
    'paramwise_cfg',
    'convert_to_iter_based',
}
LOOPS = {'train_cfg': ('EpochBasedTrainLoop', 'IterBasedTrainLoop'), 'val_cfg': ('ValLoop',), 'test_cfg': ('TestLoop',)}
# Settings without a type, by the last parts of their path: their keys, or the components that receive them.
UNTYPED = {
    'auto_scale_lr': {'enable', 'base_batch_size'},
    'randomness': {'seed', 'diff_rank_seed', 'deterministic'},
    'dataset_check': {'num_items', 'allow_other_categories'},
    'custom_imports': {'imports', 'allow_failed_imports'},
    'env_cfg': {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'},
    'env_cfg.mp_cfg': {'mp_start_method', 'opencv_num_threads'},
    'env_cfg.dist_cfg': {'init_backend', 'port', *inspect.signature(torch.distributed.init_process_group).parameters},
    'log_processor': ('LogProcessor',),
    'model_wrapper_cfg': ('MMDistributedDataParallel',),
    'optim_wrapper': ('OptimWrapper',),
    # mmengine's, mmdet's and mmpretrain's constructors.
    'paramwise_cfg': {
        *('custom_keys', 'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'flat_decay_mult', 'dwconv_decay_mult'),
        *('dcn_offset_lr_mult', 'bypass_duplicate', 'layer_decay_rate', 'decay_type', 'num_layers'),
    },
}
# The same only at the top level: models have their own ``train_cfg``.
UNTYPED_TOP = {
    **LOOPS,
    'compile': {'target', *inspect.signature(torch.compile).parameters} - {'model'},
}
# Their items are components, each of which must have a type.
LISTS_OF_COMPONENTS = ('default_hooks', 'custom_hooks', 'visualizer.vis_backends')
# One component, or a dict of components by any key.
EVALUATORS = ('val_evaluator', 'test_evaluator')
# Keys that are not in the signature but read by the code that builds the component, by the last part of their path.
EXTRA = {
    'norm_cfg': {'requires_grad'},  # mmcv
    'backbone_norm_cfg': {'requires_grad'},
    'dcn': {'fallback_on_stride'},  # mmdet
    'loss_cls': {'bg_cls_weight'},
}
# The same for all components of a collection.
EXTRA_IN = {
    'default_hooks': {'priority'},
    'custom_hooks': {'priority'},
    'policies': {'magnitude_key', 'magnitude_range'},  # mmpretrain's RandAugment
}
LOADER_KEYS = {*inspect.signature(DataLoader).parameters, 'num_batch_per_epoch', 'disable_subprocess_warning'}
# Read by the test tools of mmdet, mmseg and mmpretrain.
OTHER_TOOLS = {'tta_model', 'tta_pipeline', 'tta_cfg'}


def check_config(cfg: Mapping, overrides: Iterable[str] = ()) -> None:
    """Checks every component of a config against the signature it will be called with.

    A top-level name that no part of a run reads must be used elsewhere in the config files, as a variable. An override from
    the command line (``overrides``: dotted keys) that has no effect is always an error.

    Raises:
        ConfigError: Lists all problems, each with its key path and, if possible, the closest valid name.
    """
    scope = cfg.get('default_scope') or our_registries.SCOPE
    registries = registries_of(scope)
    problems = [*_unread_names(cfg, overrides), *_useless_overrides(overrides)]
    for found in nodes({**cfg, 'default_hooks': default_hooks(cfg)}, registries):
        if found.path.split('.')[0] == 'data_preprocessor' and scope != our_registries.SCOPE:
            continue  # mmengine merges it into the model's
        if found.path:
            problems += _problems(found, registries)
    if problems:
        raise ConfigError('\n  '.join(('the config has unknown keys:', *map(printable, problems))))


def _unread_names(cfg: Mapping, overrides: Iterable[str]) -> Iterator[str]:
    """Top-level names that neither a run nor another line of the config files reads."""
    reader = read_names(getattr(cfg, 'text', ''))
    given = {key.split('.')[0] for key in overrides}
    for name in cfg.keys() - runner_keys() - OTHER_TOOLS - given:
        close = difflib.get_close_matches(name, runner_keys(), n=1, cutoff=0.85)
        if close:
            yield f'{name}: did you mean {close[0]}?'
        elif name not in reader.own - reader.used:
            continue
        elif reader.refers_to_names:
            yield f'{name}: {_no_use(name, cfg, reader)}'
        elif cfg[name] not in _below_top(cfg):
            print_log(f'{name}: {_no_use(name, cfg, reader)}', 'current', logging.WARNING)


def _no_use(name: str, cfg: Mapping, reader: Reader) -> str:
    """Message about an unused name, with the places that accept such a key, if there are few."""
    places = [path for path in _paths(dict(cfg.items())) if path.rpartition('.')[2] == name]
    hint = f'; did you mean {" or ".join(places)}?' if 0 < len(places) <= 3 else _hint(name, runner_keys())
    return f'neither the run nor another line of {reader.files} uses it{hint or "; remove it"}'


def _below_top(cfg: Mapping) -> list:
    """All values below the top level, where variables have been copied if the config has no references."""
    return [value for node in cfg.values() for value in _values(node)]


def _values(node: Any) -> Iterator[Any]:
    for child in node.values() if isinstance(node, Mapping) else node if isinstance(node, (list, tuple)) else ():
        yield child
        yield from _values(child)


def _paths(node: Any, path: str = '') -> Iterator[str]:
    """Dotted paths of all keys below the top level."""
    for key, child in node.items() if isinstance(node, Mapping) else ():
        below = f'{path}.{key}' if path else str(key)
        if path:
            yield below
        yield from _paths(child, below)


def _useless_overrides(overrides: Iterable[str]) -> Iterator[str]:
    for key in overrides:
        top = key.split('.')[0]
        if top not in runner_keys():
            yield f'{key}: {top} is not a known top-level key{_hint(top, runner_keys())}'


def _problems(found: Node, registries: Sequence[Registry]) -> Iterator[str]:
    """Problems of one node of a config."""
    path, node, kind, _, keys = found
    if kind is not None:
        yield from _check_component(found, registries)
    elif path.endswith('dataloader'):
        yield from _unknown(path, node, LOADER_KEYS, 'a data loader')
    elif path.rpartition('.')[0] in LISTS_OF_COMPONENTS:
        yield f'{path}: has no type'
    elif path in EVALUATORS:
        yield from _members_without_type(path, node, registries)
    elif (known := _untyped(path)) is not None:
        accepted = _accepted_by_all(known, registries) if isinstance(known, tuple) else {*known, *keys}
        yield from _unknown(path, node, accepted, path.rpartition('.')[2])
    if isinstance(node.get('constructor'), str):
        yield from _check_name(f'{path}.constructor', node['constructor'], node, registries)


def _members_without_type(path: str, node: Mapping, registries: Sequence[Registry]) -> Iterator[str]:
    """Members of a dict of evaluators that are not evaluators, such as an override that was meant for one of them."""
    for key, value in node.items():
        if value is None or (isinstance(value, Mapping) and 'type' in value):
            continue
        members = [name for name, each in node.items() if isinstance(each, Mapping) and isinstance(each.get('type'), str)]
        taken = {name: accepted_arguments(find_component(node[name]['type'], registries)) or () for name in members}
        meant = ' or '.join(f'{path}.{name}.{key}' for name in members if key in taken[name])
        yield f'{path}.{key}: has no type{f"; did you mean {meant}?" if meant else ""}'


def _untyped(path: str) -> Collection[str] | None:
    """Accepted contents of a node without a type, if known."""
    parts = path.split('.')
    if len(parts) == 1 and path in UNTYPED_TOP:
        return UNTYPED_TOP[path]
    return UNTYPED.get('.'.join(parts[-2:]), UNTYPED.get(parts[-1]))


def _accepted_by_all(names: Iterable[str], registries: Sequence[Registry]) -> set[str] | None:
    """Union of the arguments that the components accept."""
    together = {'by_epoch'}  # selects mmengine's loop
    for name in names:
        accepted = accepted_arguments(find_component(name, registries))
        if accepted is None:
            return None
        together |= accepted
    return together


def _check_component(found: Node, registries: Sequence[Registry]) -> Iterator[str]:
    path, node, kind, component, keys = found
    name = kind if isinstance(kind, str) else kind.__name__
    if component is None:
        yield from _check_name(path, name, node, registries)
        return
    accepted = accepted_arguments(component)
    if accepted is not None:
        collection, _, last = path.rpartition('.')
        accepted |= keys | EXTRA.get(last, set()) | EXTRA_IN.get(collection.rpartition('.')[2], set())
    yield from _unknown(path, node, accepted, name, getattr(component, 'moved', {}))


def _check_name(path: str, name: str, node: Mapping, registries: Sequence[Registry]) -> Iterator[str]:
    """Reports a component that no registry lists; other packages and dotted Python names are resolved when it is built."""
    scope, _, own = name.rpartition('.')
    elsewhere = scope not in ('', our_registries.SCOPE) or '_scope_' in node
    if find_component(name, registries) is None and not elsewhere and not _is_mmcv_op(name):
        known = {key for registry in registries for key in registry.module_dict}
        yield f'{path}: there is no component {name!r}{_hint(own, known)}'


def _unknown(
    path: str, node: Mapping, accepted: set[str] | None, owner: str, moved: Mapping[str, str] = MappingProxyType({})
) -> Iterator[str]:
    """``moved``: what to write instead of an argument that the component once had."""
    for key in node.keys() - CONSUMED - (node.keys() if accepted is None else accepted):
        hint = f'; write {moved[key]} instead' if key in moved else _hint(key, accepted)
        yield f'{path}.{key}: {owner} has no such argument{hint}'


def _is_mmcv_op(name: str) -> bool:
    """mmdet refers to operations (``RoIAlign``, ``nms``) that no registry lists."""
    ops = sys.modules.get('mmcv.ops')
    return hasattr(ops, name)


def _hint(name: str, known: Iterable[str] | None) -> str:
    close = difflib.get_close_matches(name, [*(known or ())], n=1)
    return f'; did you mean {close[0]}?' if close else ''
