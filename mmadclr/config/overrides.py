"""Command-line overrides of a config: ``--cfg-options KEY=VALUE ...``.

Values are parsed as in mmengine's ``DictAction`` (``mmengine/config/config.py``), with two differences: blanks inside
texts are kept, and invalid values give a one-line error instead of an assertion or ``KeyError``.
"""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config, DictAction

from mmadclr.config.check import ConfigError
from mmadclr.names import printable

BRACKETS = {'(': ')', '[': ']'}
DELETE = '_delete_'


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
    """A number, bool, None, text, or a list or tuple of these: ``1,2``, ``[1,2]``, ``[(1,a),None]``.

    Raises:
        ValueError: Brackets do not match.
    """
    text = text.strip().strip('\'"')
    if text[:1] in BRACKETS and text.endswith(BRACKETS[text[0]]) and len(text) > 1 and _closes_at_the_end(text):
        values = [parse_value(part) for part in _split(text[1:-1])]
        return tuple(values) if text[0] == '(' else values
    if ',' in text:
        return [parse_value(part) for part in _split(text)]
    return DictAction._parse_int_float_bool(text)


def _closes_at_the_end(text: str) -> bool:
    """Whether the first bracket of a text is closed by its last one."""
    return all(depth > 0 for depth in list(_depths(text))[:-1])


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
    for key in overrides:
        part = next((other for other in overrides if other.startswith(f'{key}.')), None)
        if part is not None:
            raise ConfigError(f'{printable(key)} and {printable(part)}: one is a part of the other; remove one')
        _check_place(cfg, key.split('.'), overrides)
    cfg.merge_from_dict(dict(overrides))


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
