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
QUOTES = ('"', "'")
PUNCTUATION = (',', *BRACKETS, *BRACKETS.values())
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
    ``dict(a=1,b=x)``. Between quotes, commas and brackets are text.

    Raises:
        ValueError: Brackets do not match, or a part of a dict has no key.
    """
    text = text.strip()
    if _is_quoted(text) and any(character in text for character in PUNCTUATION):
        return text[1:-1]
    text = text.strip('\'"')
    if text.startswith('dict(') and _is_bracketed(text[4:]):
        return _parse_dict(text[5:-1], '=')
    if _is_bracketed(text):
        inner = text[1:-1]
        if text[0] == '{':
            return _parse_dict(inner, ':') if ':' in inner or not inner.strip() else text
        values = [parse_value(part) for part in _split(inner)]
        return tuple(values) if text[0] == '(' else values
    parts = _split(text) if ',' in text else [text]
    if parts != [text]:
        return [parse_value(part) for part in parts]
    return DictAction._parse_int_float_bool(text)


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] in QUOTES and text.find(text[0], 1) == len(text) - 1


def _is_bracketed(text: str) -> bool:
    """Whether a text begins with a bracket that its end closes."""
    return (
        len(text) > 1
        and text[0] in BRACKETS
        and text.endswith(BRACKETS[text[0]])
        and all(depth > 0 for depth, _ in list(_depths(text))[:-1])
    )


def _parse_dict(text: str, sign: str) -> dict[str, Any]:
    """A dict of parts ``KEY<sign>VALUE`` between commas."""
    values = {}
    for part in _split(text):
        key, found, value = part.partition(sign)
        key = key.strip().strip('\'"')
        if not found or not key or any(character in key for character in PUNCTUATION):
            raise ValueError(f'{part.strip()!r} in a dict must be KEY{sign}VALUE')
        values[key] = parse_value(value)
    return values


def _split(text: str) -> list[str]:
    """Parts between commas outside of brackets and quotes; an empty last part is dropped."""
    parts = ['']
    for character, (depth, quoted) in zip(text, _depths(text), strict=True):
        if character == ',' and depth == 0 and not quoted:
            parts.append('')
        else:
            parts[-1] += character
    return parts if parts[-1].strip() else parts[:-1]


def _depths(text: str) -> Iterator[tuple[int, bool]]:
    """Number of open brackets after each character, and whether it is between quotes, which begin a value."""
    opened: list[str] = []
    quote, before = '', ''
    for character in text:
        if quote:
            quote = '' if character == quote else quote
            yield len(opened), True
            continue
        if character in QUOTES and before in ('', ',', ':', '=', *BRACKETS):
            quote = character
        elif character in BRACKETS:
            opened.append(BRACKETS[character])
        elif character in BRACKETS.values() and (not opened or opened.pop() != character):
            raise ValueError(f'unmatched closing bracket {character}')
        before = before if character.isspace() else character
        yield len(opened), bool(quote)
    if opened:
        raise ValueError(f'missing closing bracket {opened[-1]}')


def merge(cfg: Config, overrides: Mapping[str, Any]) -> None:
    """Merges overrides into a config. A dict sets its keys of a group that exists, and replaces any other value.

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
    cfg.merge_from_dict({key: _replacing(cfg, key, overrides) for key in overrides})


def _by_single_keys(cfg: Config, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides in which a dict for a group that exists is one override for each of its keys."""
    found: dict[str, Any] = {}
    for key, value in overrides.items():
        if value and isinstance(value, Mapping) and isinstance(_node(cfg, key), Mapping):
            parts = {f'{key}.{name}': part for name, part in value.items()}
            found |= parts if value.get(DELETE) else _by_single_keys(cfg, parts)
        else:
            found[key] = value
    return found


def _replacing(cfg: Config, key: str, overrides: Mapping[str, Any]) -> Any:
    """The value of a key; a dict in place of another value is marked, since mmengine refuses to merge the two."""
    value, parts = overrides[key], key.split('.')
    is_new = any(overrides.get('.'.join([*parts[:number], DELETE])) for number in range(1, len(parts)))
    old = _NOTHING if is_new or not isinstance(value, Mapping) else _node(cfg, key)
    keeps = old is _NOTHING or (value and isinstance(old, Mapping))
    return value if keeps else {**value, DELETE: True}


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
    parent: Any = None
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
        parent, node = node, node[int(part)] if isinstance(node, list) else node[part]
    key = '.'.join(parts)
    if isinstance(parent, list) and isinstance(overrides[key], Mapping) and not isinstance(node, Mapping):
        where = printable('.'.join(parts[:-1]))
        raise ConfigError(f'{printable(key)}: {where} is a list and this item {node!r}: replace the whole list')
    _check_replaced(key, node, overrides[key], len(parts) == 1)


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
