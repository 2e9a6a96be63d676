"""Finds the names that config files refer to, to distinguish variables from unknown keys."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

BASE_NAME = re.compile(r'_base_\.(\w+)')
# mmengine writes the absolute path of each file on a line before its text.
FILE_LINE = re.compile(r'^((?:/|[A-Za-z]:[/\\])[^\n]*\.py)$', re.MULTILINE)


class Reader(NamedTuple):
    """Names read and set by the files of a config.

    Attributes:
        used: Names that some line reads.
        own: Top-level names set outside of installed packages (unused variables in packages are ignored).
        refers_to_names: False if all values are spelled out, as in a config dumped by a run, where variables are unused.
        files: Names of the files outside of packages, for messages.
    """

    used: set[str]
    own: set[str]
    refers_to_names: bool
    files: str


def read_names(text: str) -> Reader:
    """Names in the text of a config (``Config.text``: its file and those of ``_base_``)."""
    used: set[str] = set()
    own: set[str] = set()
    files = []
    for path, content in _files(text):
        tokens = _tokens(content)
        used |= _read(tokens)
        if 'site-packages' not in path.parts:
            own |= {token.string for token in tokens if token.type == tokenize.NAME and token.start[1] == 0}
            files.append(path.name)
    return Reader(used, own, '_base_' in own or bool(own & used), ', '.join(files))


def _files(text: str) -> Iterator[tuple[Path, str]]:
    _, *parts = FILE_LINE.split(text)
    for name, content in zip(parts[::2], parts[1::2], strict=True):
        yield Path(name), content


def _read(tokens: list[tokenize.TokenInfo]) -> set[str]:
    """Names that are read: not variables or keyword arguments before ``=``."""
    names = set()
    for token, following in pairwise(tokens):
        if token.type == tokenize.NAME and following.string != '=':
            names.add(token.string)
        elif token.type == tokenize.STRING:
            names.update(BASE_NAME.findall(token.string))
    return names


def _tokens(text: str) -> list[tokenize.TokenInfo]:
    """Tokens of a file that mmengine has already executed."""
    return list(tokenize.generate_tokens(io.StringIO(text).readline))
