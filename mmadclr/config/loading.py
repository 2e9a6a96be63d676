"""A config file and overrides -> a config that is checked."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmadclr.config.check import ConfigError, check_config
from mmadclr.config.overrides import merge
from mmadclr.names import printable
from mmadclr.packages import failed_module, how_to_get
from mmadclr.shipped import find_config
from mmadclr.urls import has_secrets, shown


def load_config(args: Namespace) -> Config:
    """Config with the overrides of the command line, checked; ``args.config`` is a path or the name of one that is shipped.

    Two overrides are short for several: ``pretrained=PATH`` for the checkpoint of the backbone's ``init_cfg``, and
    ``data_root=DIR`` for the folder of all data sets and of the annotation files evaluators read.

    Raises:
        FileNotFoundError: There is no such config.
        ConfigError: A key would never be read, or an override fits no place of the config.
    """
    file = find_config(args.config)
    cfg = read_config(file)
    overrides = spell_out(cfg, overrides_of(args))
    merge(cfg, overrides)
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
    """``--cfg-options``, with ``--data DIR`` as ``data_root=DIR``.

    Raises:
        ConfigError: Both are given.
    """
    folder = getattr(args, 'data', None)
    if folder is not None and 'data_root' in args.cfg_options:
        raise ConfigError(f'--data {folder} and data_root={args.cfg_options["data_root"]} are the same setting: give one')
    return args.cfg_options if folder is None else {'data_root': folder, **args.cfg_options}


def check_unicode(cfg: Config) -> None:
    """Raises a ConfigError if a value holds bytes that are no Unicode: the config goes into logs and checkpoints."""
    for path, value in _leaves(cfg.to_dict()):
        if isinstance(value, str) and any('\ud800' <= character <= '\udfff' for character in value):
            raise ConfigError(
                f'{path}: {printable(value)} is no valid Unicode, as text files that hold the config have to be; give the '
                'folder or file another name, or a link with one (names of images below a folder may be any)'
            )


def check_secrets(cfg: Config) -> None:
    """Raises a ConfigError if a URL holds a password or a signature: the config goes into logs and checkpoints."""
    for path, value in _leaves(cfg.to_dict()):
        if isinstance(value, str) and path.endswith('data_root') and has_secrets(value):
            raise ConfigError(
                f'{path}: {shown(value)} is given with a user, a password or a query, which would be in every log and '
                'checkpoint; put that into an environment variable and write its name ($NAME) in its place, or leave it to '
                "~/.netrc or fsspec's configuration"
            )


def spell_out(cfg: Config, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides by full key, with ``pretrained`` and ``data_root`` replaced by what they stand for.

    Raises:
        ConfigError: The data sets of the config lie in different folders, so that one cannot stand for all.
    """
    full = dict(overrides)
    if 'pretrained' in full:
        full['model.backbone.init_cfg.checkpoint'] = full.pop('pretrained')
    if 'data_root' in full:
        full = {**_data_root_overrides(cfg, str(full.pop('data_root'))), **full}
    return full


def _data_root_overrides(cfg: Config, folder: str) -> dict[str, str]:
    """Every ``data_root`` of a component of the config, and every annotation file of an evaluator below it."""
    places = {path: value for path, value in _leaves(cfg.to_dict()) if path.endswith('.data_root') and value}
    olds = set(places.values())
    if len(olds) != 1:
        keys = ' and '.join(places)
        raise ConfigError(f'data_root: the data sets lie in {", ".join(sorted(olds)) or "no folder"}; set {keys} instead')
    (old,) = olds
    full = dict.fromkeys(places, folder)
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
