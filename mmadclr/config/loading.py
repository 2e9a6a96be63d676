"""Loads a config file with overrides, and checks it."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmadclr.config.check import ConfigError, check_config
from mmadclr.config.default_hooks import default_hooks
from mmadclr.config.overrides import merge
from mmadclr.console.libraries import hushed
from mmadclr.names import printable
from mmadclr.packages import failed_module, how_to_get
from mmadclr.shipped import find_config
from mmadclr.urls import has_secrets, shown

SPLITS = ('train', 'val', 'test')


def load_config(args: Namespace) -> Config:
    """Config with command-line overrides, checked; ``args.config`` is a path or the name of a shipped config.

    Two overrides are shorthands: ``pretrained=PATH`` for the checkpoint of the backbone's ``init_cfg``, and
    ``data_root=DIR`` for the folder of all data sets, or of their folders ``train`` and ``val``, and of the annotation files
    that evaluators read.

    Raises:
        FileNotFoundError: There is no such config.
        ConfigError: A key is unknown, or an override does not apply to the config.
    """
    file = find_config(args.config)
    cfg = read_config(file)
    cfg.default_hooks = default_hooks(cfg)
    overrides = spell_out(cfg, overrides_of(args))
    merge(cfg, overrides)
    with nullcontext() if cfg.get('verbose', False) else hushed():  # libraries are imported for it
        check_config(cfg, overrides)
    if 'launcher' in args:
        cfg.launcher = args.launcher
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / file.stem)
    check_unicode(cfg)
    check_secrets(cfg)
    return cfg


def read_config(file: Path) -> Config:
    """A config with those it is based on, before any check.

    Raises:
        ConfigError: A module that it imports is not there, or does not work.
        FileNotFoundError: A config it is based on is not there.
    """
    try:
        return Config.fromfile(file)
    except (ImportError, AssertionError) as error:  # asserted are the versions of other packages
        module = failed_module(error)
        if module is None:
            raise
        reason = f' ({error})' if isinstance(error, AssertionError) else ''
        raise ConfigError(f'config {file} needs {module}, which cannot be imported{reason}: {how_to_get(module)}') from error


def overrides_of(args: Namespace) -> Mapping[str, Any]:
    """``--cfg-options``, with ``--data DIR`` as ``data_root=DIR`` and ``--verbose`` as ``verbose=True``.

    Raises:
        ConfigError: ``--data`` and ``data_root`` are both given.
    """
    folder = getattr(args, 'data', None)
    if folder is not None and 'data_root' in args.cfg_options:
        raise ConfigError(f'--data {folder} and data_root={args.cfg_options["data_root"]} are the same setting: give one')
    switched = {'verbose': True} if getattr(args, 'verbose', False) else {}
    return {**switched, **({} if folder is None else {'data_root': folder}), **args.cfg_options}


def check_unicode(cfg: Config) -> None:
    """Raises ConfigError if a value has invalid Unicode: the config is stored in logs and checkpoints."""
    for path, value in _leaves(cfg.to_dict()):
        if isinstance(value, str) and any('\ud800' <= character <= '\udfff' for character in value):
            raise ConfigError(
                f'{path}: {printable(value)} is not valid Unicode, which the text files of the config require; rename the '
                'folder or file, or use a link to it (names of images in a folder are not restricted)'
            )


def check_secrets(cfg: Config) -> None:
    """Raises ConfigError if a URL has a password or a signature: the config is stored in logs and checkpoints."""
    for path, value in _leaves(cfg.to_dict()):
        is_place = path.endswith('data_root') or '.source.' in path
        if isinstance(value, str) and is_place and has_secrets(value):
            raise ConfigError(
                f'{path}: {shown(value)} has a password or a query, which would be stored in every log and '
                'checkpoint; replace it by the name of an environment variable ($NAME), or set it in '
                "~/.netrc or fsspec's configuration"
            )


def spell_out(cfg: Config, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides by full key, with the shorthands ``pretrained`` and ``data_root`` expanded.

    Raises:
        ConfigError: ``data_root`` is ambiguous, because the data sets of the config are in different folders.
    """
    full = dict(overrides)
    if 'pretrained' in full:
        full['model.backbone.init_cfg.checkpoint'] = full.pop('pretrained')
    if 'data_root' in full:
        full = {**_data_root_overrides(cfg, str(full.pop('data_root'))), **full}
    return full


def _data_root_overrides(cfg: Config, folder: str) -> dict[str, str]:
    """Every ``data_root`` of a component, and every evaluator's annotation file below it.

    Data sets in folders ``train``, ``val`` or ``test`` beside each other are those of the new folder.
    """
    places = {path: value for path, value in _leaves(cfg.to_dict()) if path.endswith('.data_root') and value}
    olds = set(places.values())
    if not olds:
        raise ConfigError('data_root: no data set of the config has a folder; set the arguments of their sources instead')
    if len(olds) > 1 and all(Path(old).name in SPLITS for old in olds):
        olds = {str(Path(old).parent) for old in olds}
    if len(olds) > 1:
        keys = ' and '.join(places)
        raise ConfigError(f'data_root: the data sets are in {", ".join(sorted(set(places.values())))}; set {keys} instead')
    (old,) = olds
    full = {path: str(Path(folder, Path(value).relative_to(old))) for path, value in places.items()}
    for path, value in _leaves(cfg.to_dict()):
        if 'evaluator' in path and path.endswith('.ann_file') and value and Path(value).is_relative_to(old):
            full[path] = str(Path(folder) / Path(value).relative_to(old))
    return full


def _leaves(node: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """Values of nested dicts and lists by dotted path."""
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, (list, tuple)) else None
    if children is None:
        yield path, node
        return
    for key, child in children:
        yield from _leaves(child, f'{path}.{key}' if path else str(key))
