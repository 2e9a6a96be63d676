"""Which names the text of config files refers to, so that a variable can be told from a key that nothing reads."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

BASE_NAME = re.compile(r'_base_\.(\w+)')
# mmengine puts the absolute path of each file on a line before its text.
FILE_LINE = re.compile(r'^((?:/|[A-Za-z]:[/\\])[^\n]*\.py)$', re.MULTILINE)


class Reader(NamedTuple):
    """What the files of a config do with names.

    Attributes:
        used: Names that some line reads.
        own: Names at the top that are set outside of installed packages, whose unused variables are no one's mistake.
        refers_to_names: False where all is written out, as in a config dumped by a run: variables have lost their use there.
        files: What messages call the files outside of packages.
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
    """Names that are not just set: not before ``=``, as variables, keyword arguments."""
    names = set()
    for token, following in pairwise(tokens):
        if token.type == tokenize.NAME and following.string != '=':
            names.add(token.string)
        elif token.type == tokenize.STRING:
            names.update(BASE_NAME.findall(token.string))
    return names


def _tokens(text: str) -> list[tokenize.TokenInfo]:
    """Of a file that mmengine has executed already."""
    return list(tokenize.generate_tokens(io.StringIO(text).readline))
