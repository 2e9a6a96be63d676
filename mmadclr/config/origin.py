"""A resolved config as Python text, with the source file and line of each value."""

from __future__ import annotations

import ast
import keyword
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

MAX_COLUMN = 80
OVERRIDES = '--cfg-options'
# Keys that are not valid arguments of dict(); dicts with such keys are written with braces.
RESERVED = {*keyword.kwlist, 'self'}


class Setting(NamedTuple):
    """Where a key is set: ``line`` of its file; ``replaces``: whether it discards what bases set below the key."""

    line: int
    replaces: bool


class Layer(NamedTuple):
    """The settings of one file (or the command line) by dotted path."""

    name: str
    settings: dict[str, Setting]


def find_origins(config: str | Path, overrides: Iterable[str], clone: Path) -> Callable[[str], str]:
    """A function from the dotted path of a value to 'file:line', relative to the clone, or to ``--cfg-options``.

    Values without a line of their own (from a comprehension, a function, a variable of a base) have the line of the key
    above them.

    Args:
        config: Config file; those of its ``_base_`` are found from there.
        overrides: Dotted keys of the command line.
        clone: Folder to which file names are relative.
    """
    layers = [Layer(_name(path, clone), settings_of(path.read_text(encoding='utf-8'))) for path in files_of(config)]
    layers.append(Layer(OVERRIDES, {key: Setting(0, replaces=True) for key in overrides}))
    return lambda path: _origin(path, layers)


def files_of(config: str | Path) -> list[Path]:
    """Files of a config in the order in which they apply, ``_base_`` first."""
    bases = [Config._get_cfg_path(base, str(config))[0] for base in Config._get_base_files(str(config))]
    return [path for base in bases for path in files_of(base)] + [Path(config).resolve()]


def settings_of(source: str) -> dict[str, Setting]:
    """Settings in the text of a config file, by dotted path."""
    settings: dict[str, Setting] = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                for name, value in _pairs(target, statement.value):
                    _record(settings, name, value, statement.lineno)
        else:
            stored = (node for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
            settings |= {node.id: Setting(node.lineno, replaces=True) for node in stored}
    return settings


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """Names and values of an assignment; for ``a, b = f()`` both names get the call."""
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, (ast.Tuple, ast.List)):
        parts = value.elts if isinstance(value, (ast.Tuple, ast.List)) else []
        for i, part in enumerate(target.elts):
            yield from _pairs(part, parts[i] if len(parts) == len(target.elts) else value)


def _record(settings: dict[str, Setting], path: str, value: ast.expr, line: int) -> None:
    """Records the line of a value and of all values below it."""
    items = _items(value)
    if items is not None:
        deletes = any(key == '_delete_' and isinstance(item, ast.Constant) and item.value for key, item, _ in items)
        settings[path] = Setting(line, replaces=deletes)
        for key, item, item_line in items:
            if key is None:
                _copy(settings, path, item)
            else:
                _record(settings, f'{path}.{key}', item, item_line)
        return
    settings[path] = Setting(line, replaces=True)
    _copy(settings, path, value)
    for i, item in enumerate(value.elts if isinstance(value, (ast.List, ast.Tuple)) else ()):
        _record(settings, f'{path}.{i}', item, item.lineno)


def _copy(settings: dict[str, Setting], path: str, value: ast.expr) -> None:
    """Copies the lines of a variable's parts."""
    if not isinstance(value, ast.Name) or value.id not in settings:
        return
    below = {name: setting for name, setting in settings.items() if name.startswith(f'{value.id}.')}
    settings |= {path + name.removeprefix(value.id): setting for name, setting in below.items()}
    if path in settings:
        settings[path] = settings[path]._replace(replaces=settings[value.id].replaces)


def _items(value: ast.expr) -> list[tuple[str | None, ast.expr, int]] | None:
    """Keys, values and lines of ``dict(...)`` or ``{...}``, with None for ``**``; None for anything else."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == 'dict' and not value.args:
        return [(item.arg, item.value, item.value.lineno if item.arg is None else item.lineno) for item in value.keywords]
    keys = value.keys if isinstance(value, ast.Dict) else []
    literal = [key for key in keys if key is None or isinstance(key, ast.Constant)]
    if isinstance(value, ast.Dict) and len(literal) == len(keys):
        pairs = zip(literal, value.values, strict=True)
        return [(None if key is None else str(key.value), item, (key or item).lineno) for key, item in pairs]
    return None


def _origin(path: str, layers: Sequence[Layer]) -> str:
    parts = path.split('.')
    above = ['.'.join(parts[:n]) for n in range(len(parts), 0, -1)]
    for layer in reversed(layers):
        found = next((layer.settings[name] for name in above if _decides(layer.settings.get(name), name == path)), None)
        if found is not None:
            return _place(layer, found)
    last = next((layer for layer in reversed(layers) if parts[0] in layer.settings), None)
    return '' if last is None else _place(last, last.settings[parts[0]])


def _decides(setting: Setting | None, exact: bool) -> bool:
    return setting is not None and (exact or setting.replaces)


def _place(layer: Layer, setting: Setting) -> str:
    return f'{layer.name}:{setting.line}' if setting.line else layer.name


def _name(path: Path, clone: Path) -> str:
    """Short name of a file: relative to the clone, otherwise to the packages."""
    path = path.resolve()
    if 'site-packages' in path.parts:
        return '/'.join(path.parts[path.parts.index('site-packages') + 1 :])
    return str(path.relative_to(clone) if path.is_relative_to(clone) else path)


def render(cfg: Mapping, origin: Callable[[str], str]) -> str:
    """Python text of a config, one value per line, each with its origin in a comment; can be loaded as a config again."""
    lines = [line for key, value in cfg.items() for line in _lines(f'{key} = ', value, '', str(key), 0, origin)]
    widths = [len(text) for text, comment in lines if comment]
    column = max((width for width in widths if width <= MAX_COLUMN), default=0)
    return ''.join(f'{text.ljust(column)}  # {comment}\n' if comment else f'{text}\n' for text, comment in lines)


def _lines(
    prefix: str, value: Any, suffix: str, path: str, indent: int, origin: Callable[[str], str]
) -> Iterator[tuple[str, str]]:
    """Lines of a value, with their comments."""
    margin = ' ' * indent
    if isinstance(value, Mapping) and value:
        plain = all(isinstance(key, str) and key.isidentifier() and key not in RESERVED for key in value)
        opening, closing = ('dict(', ')') if plain else ('{', '}')
        children = [(f'{key}=' if plain else f'{key!r}: ', key, child) for key, child in value.items()]
    elif isinstance(value, (list, tuple)) and any(isinstance(child, (Mapping, list, tuple)) for child in value):
        opening, closing = ('[', ']') if isinstance(value, list) else ('(', ')')
        children = [('', i, child) for i, child in enumerate(value)]
    else:
        first, *others = _rows(f'{margin}{prefix}{_literal(value)}{suffix}', value, f'{margin}{prefix}', suffix)
        yield first, origin(path)
        yield from ((text, '') for text in others)
        return
    yield f'{margin}{prefix}{opening}', ''
    for label, key, child in children:
        yield from _lines(label, child, ',', f'{path}.{key}', indent + 4, origin)
    yield f'{margin}{closing}{suffix}', ''


def _rows(line: str, value: Any, start: str, suffix: str) -> Iterator[str]:
    """The line, or the rows of a long list."""
    if len(line) <= MAX_COLUMN or not isinstance(value, (list, tuple)):
        yield line
        return
    opening, closing = ('[', ']') if isinstance(value, list) else ('(', ')')
    row = start + opening
    for item in map(_literal, value):
        if len(row) + len(item) > MAX_COLUMN:
            yield row.rstrip()
            row = ' ' * (len(start) - len(start.lstrip()) + 4)
        row += f'{item}, '
    yield f'{row.rstrip(", ")}{closing}{suffix}'


def _literal(value: Any) -> str:
    """``repr``, or a readable form of values whose ``repr`` cannot be evaluated."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, (list, tuple)):
        inner = ', '.join(map(_literal, value)) + (',' if isinstance(value, tuple) and len(value) == 1 else '')
        return f'[{inner}]' if isinstance(value, list) else f'({inner})'
    return repr(value)


def select(cfg: Mapping, key: str) -> dict:
    """The part of a config at a dotted key, nested in the keys above it.

    Raises:
        ValueError: There is no such key.
    """
    name, _, rest = key.partition('.')
    if not isinstance(cfg, Mapping) or name not in cfg:
        known = ', '.join(map(str, cfg)) if isinstance(cfg, Mapping) else 'no keys'
        raise ValueError(f'the config has no {name!r} at this position of --key; available: {known}')
    return {name: select(cfg[name], rest) if rest else cfg[name]}
