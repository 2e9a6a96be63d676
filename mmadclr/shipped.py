"""Configs of the package by name: ``adclr/vits16_folder`` is ``configs/adclr/vits16_folder.py``.

In a wheel, they are in ``mmadclr/.mim/configs``, as in OpenMMLab's packages; in a clone, in ``configs``. This module imports
only the standard library.
"""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
IN_WHEEL = PACKAGE / '.mim' / 'configs'
NEAREST = 3


def config_folder() -> Path:
    """Folder of the configs of the package."""
    return IN_WHEEL if IN_WHEEL.is_dir() else PACKAGE.parent / 'configs'


def clone() -> Path | None:
    """Folder of the clone that contains the package; None if the package is installed without a clone."""
    return None if IN_WHEEL.is_dir() or not (PACKAGE.parent / 'configs').is_dir() else PACKAGE.parent


def importable(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which another interpreter finds the package, even in a clone that is not installed."""
    paths = [str(PACKAGE.parent)] if clone() else []
    return {**environment, 'PYTHONPATH': os.pathsep.join([*paths, *filter(None, [environment.get('PYTHONPATH')])])}


@cache
def shipped_configs() -> dict[str, Path]:
    """Files by name, without those that are only parts of other configs (``_base_``)."""
    folder = config_folder()
    files = sorted(path for path in folder.rglob('*.py') if '_base_' not in path.relative_to(folder).parts)
    return {path.relative_to(folder).as_posix().removesuffix('.py'): path for path in files}


def find_config(text: str) -> Path:
    """The file of a config argument: the path if it exists, otherwise the config of mmadclr with that name.

    Raises:
        FileNotFoundError: Neither exists; names the most similar configs of mmadclr.
    """
    if Path(text).is_file():
        return Path(text)
    found = shipped_configs().get(_name(text))
    if found is None:
        what = 'is a folder, not a config' if Path(text).is_dir() else 'does not exist'
        raise FileNotFoundError(f'config {text} {what}{_hint(text)}')
    return found


def is_shipped(text: str) -> bool:
    """Whether an argument that can be something else is the name of a config of mmadclr."""
    return not Path(text).exists() and _name(text) in shipped_configs()


def ambiguity(text: str) -> str | None:
    """A note for names that match both a file in this folder and a config of mmadclr; None if only one matches."""
    shipped, here = shipped_configs().get(_name(text)), Path(text if text.endswith('.py') else f'{text}.py')
    if shipped is None or not here.is_file() or here.samefile(shipped):
        return None
    if Path(text).is_file():
        return f'{text}: using the file in this folder; for the config of mmadclr, omit .py: {_name(text)}'
    return f'{text}: using the config of mmadclr; for the file in this folder, add .py: {here}'


def nearest(word: str, known: list[str]) -> list[str]:
    """The known names that are most similar to a misspelled one, best first."""
    same_end = [name for name in known if name.rpartition('/')[2] == word.rpartition('/')[2]]
    close = difflib.get_close_matches(word, known, n=NEAREST, cutoff=0.6)
    return list(dict.fromkeys([*same_end, *close]))[:NEAREST]


def first_line(config: Path) -> str:
    """The description of a config: the first line of its docstring."""
    text = ast.get_docstring(ast.parse(config.read_text(encoding='utf-8'))) or ''
    return text.partition('\n')[0]


def _name(text: str) -> str:
    return text.replace(os.sep, '/').removesuffix('.py')


def _hint(text: str) -> str:
    name = _name(text).removeprefix('./').removeprefix('configs/')
    names = nearest(name, list(shipped_configs()))
    there = 'mmadclr list-configs lists all names'
    return f'; did you mean {" or ".join(names)}? ({there})' if names else f'; {there}'


def register_configs() -> None:
    """Makes mmengine find ``mmadclr::NAME`` in ``_base_``, even in clones that pip has not installed.

    Such a base is read like a config in the same folder. mmengine itself would look up all types in a scope with the name
    of the package, but our detection configs use the scope of mmdet, set by ``default_scope``.
    """
    from mmengine.config import Config
    from mmengine.config.utils import MODULE2PACKAGE

    if PACKAGE.name in MODULE2PACKAGE:
        return
    MODULE2PACKAGE[PACKAGE.name] = PACKAGE.name
    others = Config._get_cfg_path

    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        package, _, name = cfg_path.partition('::')
        if package == PACKAGE.name:
            return str(base_file(name)), None
        try:
            return others(cfg_path, filename)
        except ModuleNotFoundError as error:  # mmengine names the package only in the message
            error.name = error.name or package
            raise

    Config._get_cfg_path = staticmethod(get_cfg_path)


def base_file(name: str) -> Path:
    """The file of ``mmadclr::NAME``, with or without ``.py``, including parts of configs (``_base_/...``).

    Raises:
        FileNotFoundError: It does not exist; names the most similar ones.
    """
    file = config_folder() / f'{name.removesuffix(".py")}.py'
    if not file.is_file():
        raise FileNotFoundError(f'_base_ {PACKAGE.name}::{name} does not exist{_hint(name)}')
    return file
