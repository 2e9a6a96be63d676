"""Configs that come with the package, by name: ``adclr/vits16_folder`` is ``configs/adclr/vits16_folder.py``.

A wheel carries them in ``mmadclr/.mim/configs``, where OpenMMLab's packages have theirs; in a clone they lie beside the
package. Nothing but the standard library is imported here.
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
    """Folder of the configs that come with the package."""
    return IN_WHEEL if IN_WHEEL.is_dir() else PACKAGE.parent / 'configs'


def clone() -> Path | None:
    """Folder of the clone that the package lies in; None if it was installed without one."""
    return None if IN_WHEEL.is_dir() or not (PACKAGE.parent / 'configs').is_dir() else PACKAGE.parent


def importable(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment in which another interpreter finds the package, also that of a clone that is not installed."""
    paths = [str(PACKAGE.parent)] if clone() else []
    return {**environment, 'PYTHONPATH': os.pathsep.join([*paths, *filter(None, [environment.get('PYTHONPATH')])])}


@cache
def shipped_configs() -> dict[str, Path]:
    """Files by name, without those that are only parts of others (``_base_``)."""
    folder = config_folder()
    files = sorted(path for path in folder.rglob('*.py') if '_base_' not in path.relative_to(folder).parts)
    return {path.relative_to(folder).as_posix().removesuffix('.py'): path for path in files}


def find_config(text: str) -> Path:
    """The file that a config argument means: the path, if there is such a file, or else the shipped config of that name.

    Raises:
        FileNotFoundError: There is neither; names the nearest shipped configs.
    """
    if Path(text).is_file():
        return Path(text)
    found = shipped_configs().get(_name(text))
    if found is None:
        what = 'is a folder, not a config' if Path(text).is_dir() else 'does not exist'
        raise FileNotFoundError(f'config {text} {what}{_hint(text)}')
    return found


def is_shipped(text: str) -> bool:
    """Whether an argument that may be something else than a config means one by its name."""
    return not Path(text).exists() and _name(text) in shipped_configs()


def ambiguity(text: str) -> str | None:
    """What to say where a file here and a shipped config may both be meant; None where there is no doubt."""
    shipped, here = shipped_configs().get(_name(text)), Path(text if text.endswith('.py') else f'{text}.py')
    if shipped is None or not here.is_file() or here.samefile(shipped):
        return None
    if Path(text).is_file():
        return f'{text}: the file in this folder is used; the config that comes with mmadclr is {_name(text)}, without .py'
    return f'{text}: the config that comes with mmadclr is used; the file in this folder is {here}, with .py'


def nearest(word: str, known: list[str]) -> list[str]:
    """The names that a misspelled one may mean, best first."""
    same_end = [name for name in known if name.rpartition('/')[2] == word.rpartition('/')[2]]
    close = difflib.get_close_matches(word, known, n=NEAREST, cutoff=0.6)
    return list(dict.fromkeys([*same_end, *close]))[:NEAREST]


def first_line(config: Path) -> str:
    """What a config says of itself, in one line."""
    text = ast.get_docstring(ast.parse(config.read_text(encoding='utf-8'))) or ''
    return text.partition('\n')[0]


def _name(text: str) -> str:
    return text.replace(os.sep, '/').removesuffix('.py')


def _hint(text: str) -> str:
    name = _name(text).removeprefix('./').removeprefix('configs/')
    names = nearest(name, list(shipped_configs()))
    there = 'mmadclr list-configs names those that come with it'
    return f'; did you mean {" or ".join(names)}? ({there})' if names else f'; {there}'


def register_configs() -> None:
    """Has mmengine find ``mmadclr::NAME`` in ``_base_``, in clones and for packages that pip does not know as well.

    Such a base is read as if it lay beside the config. mmengine would look up all its parts in a scope named like the
    package, but our configs for detection have mmdet's, as their ``default_scope`` says.
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
        except ModuleNotFoundError as error:  # mmengine's, which says in words alone what is missing
            error.name = error.name or package
            raise

    Config._get_cfg_path = staticmethod(get_cfg_path)


def base_file(name: str) -> Path:
    """The file that ``mmadclr::NAME`` means, with or without ``.py``; parts of configs (``_base_/...``) are among them.

    Raises:
        FileNotFoundError: There is none; names the nearest.
    """
    file = config_folder() / f'{name.removesuffix(".py")}.py'
    if not file.is_file():
        raise FileNotFoundError(f'_base_ {PACKAGE.name}::{name} does not exist{_hint(name)}')
    return file
