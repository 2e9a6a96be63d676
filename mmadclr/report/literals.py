"""Values of the config that a run stores in its work dir, read without executing the file."""

from __future__ import annotations

import ast
from typing import Any


def read_literals(text: str) -> dict[str, Any]:
    """Values of all assignments at the top of a config that mmengine has written; expressions are kept as text.

    Raises:
        ValueError: The text is not Python.
    """
    try:
        nodes = ast.parse(text).body
    except SyntaxError as error:
        raise ValueError(f'line {error.lineno} is not Python ({error.msg})') from error
    named = (node for node in nodes if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name))
    return {node.targets[0].id: value_of(node.value) for node in named}  # type: ignore[attr-defined]  # checked above


def value_of(node: ast.expr) -> Any:
    """Value of a literal or of ``dict(...)`` with literals in it."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        return {keyword.arg: value_of(keyword.value) for keyword in node.keywords if keyword.arg}
    if isinstance(node, ast.Dict):
        return {value_of(key): value_of(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [value_of(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def leaves(node: Any, path: str = '') -> dict[str, Any]:
    """Values of nested dicts by dotted path; lists are values."""
    if not isinstance(node, dict):
        return {path: node}
    found: dict[str, Any] = {}
    for key, child in node.items():
        found |= leaves(child, f'{path}.{key}' if path else str(key))
    return found


def nested(node: Any, *keys: str) -> Any:
    """Value of a nested key; None if there is none."""
    for key in keys:
        node = node.get(key) if isinstance(node, dict) else None
    return node
