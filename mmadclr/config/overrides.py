"""Command-line overrides of a config: ``--cfg-options KEY=VALUE ...``.

Values are parsed as in mmengine's ``DictAction`` (``mmengine/config/config.py``), with three differences: blanks inside
texts are kept, dicts are understood, and invalid values give a one-line error instead of an assertion or ``KeyError``.
"""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config, DictAction

from mmadclr.config.check import ConfigError
from mmadclr.names import printable

BRACKETS = {'(': ')', '[': ']', '{': '}'}
DELETE = '_delete_'
_NOTHING = object()


class Overrides(Action):
    """Collects ``KEY=VALUE`` arguments in a dict by dotted key; the last value of a key counts."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None) -> None:
        options = dict(getattr(namespace, self.dest, None) or {})
        for text in values:
            key, equals, value = text.partition('=')
            if not equals or not all(key.split('.')):
                parser.error(f'{option_string} {printable(text)}: write KEY=VALUE, for example train_cfg.max_epochs=100')
            try:
                options[key] = parse_value(value)
            except (ValueError, RecursionError) as error:
                parser.error(f'{option_string} {printable(text)}: {error}')
        setattr(namespace, self.dest, options)


def parse_value(text: str) -> Any:
    """A number, bool, None, text, or a list, tuple or dict of these: ``1,2``, ``[1,2]``, ``[(1,a),None]``, ``{a:1,b:x}``,
    ``dict(a=1,b=x)``.

    Raises:
        ValueError: Brackets do not match, or a part of a dict has no key.
    """
    text = text.strip().strip('\'"')
    if text.startswith('dict(') and _is_bracketed(text[4:]):
        return _parse_dict(text[5:-1], '=')
    if _is_bracketed(text) and text[0] == '{':
        return text if ':' not in text and text != '{}' else _parse_dict(text[1:-1], ':')
    if _is_bracketed(text):
        values = [parse_value(part) for part in _split(text[1:-1])]
        return tuple(values) if text[0] == '(' else values
    parts = _split(text) if ',' in text else [text]
    if parts != [text]:
        return [parse_value(part) for part in parts]
    return DictAction._parse_int_float_bool(text)


def _is_bracketed(text: str) -> bool:
    """Whether a text begins with a bracket that its end closes."""
    return (
        len(text) > 1
        and text[0] in BRACKETS
        and text.endswith(BRACKETS[text[0]])
        and all(depth > 0 for depth in list(_depths(text))[:-1])
    )


def _parse_dict(text: str, sign: str) -> dict[str, Any]:
    """A dict of parts ``KEY<sign>VALUE`` between commas."""
    values = {}
    for part in _split(text):
        key, found, value = part.partition(sign)
        key = key.strip().strip('\'"')
        if not found or not key:
            raise ValueError(f'{part.strip()!r} in a dict must be KEY{sign}VALUE')
        values[key] = parse_value(value)
    return values


def _split(text: str) -> list[str]:
    """Parts between commas outside of brackets; an empty last part is dropped."""
    parts = ['']
    for character, depth in zip(text, _depths(text), strict=True):
        if character == ',' and depth == 0:
            parts.append('')
        else:
            parts[-1] += character
    return parts if parts[-1].strip() else parts[:-1]


def _depths(text: str) -> Iterator[int]:
    """Number of open brackets after each character."""
    opened: list[str] = []
    for character in text:
        if character in BRACKETS:
            opened.append(BRACKETS[character])
        elif character in BRACKETS.values() and (not opened or opened.pop() != character):
            raise ValueError(f'unmatched closing bracket {character}')
        yield len(opened)
    if opened:
        raise ValueError(f'missing closing bracket {opened[-1]}')


def merge(cfg: Config, overrides: Mapping[str, Any]) -> None:
    """Merges overrides into a config.

    Raises:
        ConfigError: A key leads through a value without parts, or to an index outside of a list; a component is replaced
            by a value; or two keys contradict each other.
    """
    overrides = _by_single_keys(cfg, overrides)
    for key in overrides:
        part = next((other for other in overrides if other.startswith(f'{key}.')), None)
        if part is not None:
            raise ConfigError(f'{printable(key)} and {printable(part)}: one is a part of the other; remove one')
        _check_place(cfg, key.split('.'), overrides)
    cfg.merge_from_dict(dict(overrides))


def _by_single_keys(cfg: Config, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides in which a dict for a group that exists is one override for each of its keys; other values are replaced."""
    found: dict[str, Any] = {}
    for key, value in overrides.items():
        node = _node(cfg, key) if isinstance(value, Mapping) else _NOTHING
        if value and isinstance(node, Mapping):
            found |= _by_single_keys(cfg, {f'{key}.{name}': part for name, part in value.items()})
        else:
            found[key] = value if node is _NOTHING else {**value, DELETE: True}  # mmengine would refuse to merge them
    return found


def _node(cfg: Config, key: str) -> Any:
    """What is at a dotted key, or ``_NOTHING``."""
    node: Any = dict(cfg.items())
    for part in key.split('.'):
        if isinstance(node, (list, tuple)) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        else:
            node = node.get(part, _NOTHING) if isinstance(node, Mapping) else _NOTHING
    return node


def _check_place(cfg: Config, parts: Sequence[str], overrides: Mapping[str, Any]) -> None:
    node: Any = dict(cfg.items())
    for number, part in enumerate(parts):
        where = '.'.join(parts[:number])
        if overrides.get(f'{where}.{DELETE}') or (isinstance(node, Mapping) and part not in node):
            return  # everything below is new
        if isinstance(node, (list, tuple)) and not (part.isdecimal() and part.isascii() and int(part) < len(node)):
            numbers = f'use an index, {where}.0 to {where}.{len(node) - 1}' if node else 'it is empty'
            raise ConfigError(f'{printable(".".join(parts))}: {where} is a list of length {len(node)}: {numbers}')
        if not isinstance(node, (Mapping, list)):
            raise ConfigError(f'{printable(".".join(parts))}: {where} is {node!r}, which has no parts')
        node = node[int(part)] if isinstance(node, list) else node[part]
    _check_replaced('.'.join(parts), node, overrides['.'.join(parts)], len(parts) == 1)


def _check_replaced(key: str, old: Any, new: Any, is_top: bool) -> None:
    """Components, lists of components and top-level groups can be set to None, and lists to [], but not to other values."""
    if new is None:
        return
    if isinstance(old, Mapping) and ('type' in old or is_top):
        example = next(iter(old), 'type')
        raise ConfigError(
            f'{key}={new!r}: {key} is a group of settings: set them one by one ({key}.{example}=...), or use None'
        )
    if isinstance(old, (list, tuple)) and any(isinstance(item, Mapping) for item in old) and new != []:
        raise ConfigError(f'{key}={new!r}: {key} is a list of components: set their keys ({key}.0...), or use [] or None')
