"""Reads the records of large JSON files one at a time, in constant memory."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Any, TextIO

CHUNK = 2**20
# An error this close to the end of what has been read may be due to a value that continues, and a number may continue.
MARGIN = 16
BLANKS = ' \t\n\r'
AFTER = frozenset(f'{BLANKS},]}}:')


def json_records(path: str | Path, parts: Collection[str], chunk: int = CHUNK) -> Iterator[tuple[str, Any]]:
    """Yields the elements of top-level lists as (name of the list, element), in the order of the file.

    Args:
        path: A file with an object at the top.
        parts: Names of the lists.
        chunk: Number of characters read at a time.

    Raises:
        ValueError: The file is broken, not UTF-8, has another value at the top, or lacks one of the lists.
    """
    missing = set(parts)
    with Path(path).open(encoding='utf-8-sig') as file:
        scanner = _Scanner(file, chunk)
        try:
            scanner.take('{')
            while scanner.peek() != '}':
                name = scanner.value()
                scanner.take(':')
                wanted = name in parts
                if scanner.peek() == '[':
                    missing.discard(name)
                    yield from ((name, element) for element in scanner.elements() if wanted)
                else:
                    scanner.value()
                if scanner.peek() != '}':
                    scanner.take(',')
        except (JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f'{path} is broken: {error}') from error
    if missing:
        raise ValueError(f'{path} has no list of {", ".join(sorted(missing))}')


class _Scanner:
    """A position in a JSON text that is read in pieces."""

    def __init__(self, file: TextIO, chunk: int) -> None:
        self.file, self.chunk = file, chunk
        self.text, self.place, self.passed, self.ended = '', 0, 0, False
        self.decode = json.JSONDecoder().raw_decode

    def more(self) -> None:
        """Appends the next piece, at least as long as the rest: a long value is scanned a few times only."""
        rest = self.text[self.place :]
        piece = self.file.read(max(self.chunk, len(rest)))
        self.passed += self.place
        self.text, self.place, self.ended = rest + piece, 0, not piece

    def peek(self) -> str:
        """The next character that is not blank."""
        while True:
            while self.place < len(self.text):
                if self.text[self.place] not in BLANKS:
                    return self.text[self.place]
                self.place += 1
            if self.ended:
                raise self.error('the file ends too early', 0)
            self.more()

    def take(self, character: str) -> None:
        found = self.peek()
        if found != character:
            raise self.error(f'{found!r} instead of {character!r}', 0)
        self.place += 1

    def elements(self) -> Iterator[Any]:
        """The elements of the list that starts here."""
        self.take('[')
        while self.peek() != ']':
            yield self.value()
            if self.peek() != ']':
                self.take(',')
        self.take(']')

    def value(self) -> Any:
        """The value that starts here."""
        self.peek()
        while True:
            try:
                value, end = self.decode(self.text, self.place)
            except JSONDecodeError as error:
                continues = error.msg.startswith('Unterminated string') or error.pos >= len(self.text) - MARGIN
                if self.ended or not continues:
                    raise self.error(error.msg, error.pos - self.place) from error
            else:
                if self.ended or self.text[end : end + 1] in AFTER or len(self.text) - end > MARGIN:
                    self.place = end
                    return value
            self.more()

    def error(self, text: str, ahead: int) -> JSONDecodeError:
        place = self.passed + self.place + ahead
        error = JSONDecodeError(text, '', 0)
        error.args = (f'{text} (character {place})',)
        return error
