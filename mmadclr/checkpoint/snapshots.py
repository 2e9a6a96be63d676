"""Copies of a state to be saved, and placeholders in a loaded one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from mmadclr.checkpoint.reading import Untrusted


def find_placeholders(node: Any, path: str = '') -> Iterator[str]:
    """Paths of objects in a checkpoint that were not rebuilt because their classes are not trusted."""
    if isinstance(node, Untrusted):
        yield path
    elif isinstance(node, Mapping):
        for name, child in node.items():
            yield from find_placeholders(child, f'{path}.{name}' if path else str(name))
    elif isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            yield from find_placeholders(child, f'{path}.{index}')


def snapshot(node: Any) -> Any:
    """A deep copy of nested dicts and lists with all tensors on the CPU."""
    if isinstance(node, Tensor):
        return node.detach().to('cpu', copy=True)
    if isinstance(node, Mapping):
        return {name: snapshot(child) for name, child in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(snapshot(child) for child in node) if type(node) in (list, tuple) else node
    return node
