"""File names with arbitrary bytes, hidden files, and lists of file names in common text encodings."""

from __future__ import annotations

import codecs
import os
import unicodedata
from pathlib import Path

# Files that operating systems and programs create next to images, besides names that start with a dot.
FOLDERS_LEFT_BEHIND = ('__macosx', '@eadir', '$recycle.bin', 'lost+found', 'system volume information')
FILES_LEFT_BEHIND = ('thumbs.db', 'ehthumbs.db', 'desktop.ini')
UNPRINTABLE = frozenset({'Cc', 'Cs', 'Zl', 'Zp'})  # control characters, invalid bytes, Unicode line and paragraph separators
# UTF-32 first: its byte-order mark starts with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: 'utf-32',
    codecs.BOM_UTF32_BE: 'utf-32',
    codecs.BOM_UTF8: 'utf-8-sig',
    codecs.BOM_UTF16_LE: 'utf-16',
    codecs.BOM_UTF16_BE: 'utf-16',
}


def printable(name: str | os.PathLike) -> str:
    r"""A name as shown in messages and text files: one line of valid Unicode, unique for each name.

    Invalid bytes become ``\xe9``, line ends and other control characters ``\n``, ``\x1b``. All other characters, including
    blanks, quotes and letters of any script, are unchanged.
    """
    name = os.fspath(name)
    if name.isprintable():
        return name
    return ''.join(_escaped(c) if unicodedata.category(c) in UNPRINTABLE else c for c in name)


def _escaped(character: str) -> str:
    if '\udc80' <= character <= '\udcff':  # Python's representation of an invalid byte
        return f'\\x{ord(character) - 0xDC00:02x}'
    return character.encode('unicode_escape', 'surrogatepass').decode()


def is_hidden(path: str) -> bool:
    """Whether any part of a relative path is hidden or a system file (``.ipynb_checkpoints``, ``__MACOSX``)."""
    parts = (part for part in path.split('/') if part not in ('', '.', '..'))
    return any(part.startswith('.') or part.lower() in FOLDERS_LEFT_BEHIND + FILES_LEFT_BEHIND for part in parts)


def read_lines(path: str | Path) -> list[tuple[int, str]]:
    """Line numbers (from 1) and stripped contents of the non-blank lines of a text file.

    UTF-8, or UTF-16 and UTF-32 with a byte-order mark; line ends of any system. Invalid UTF-8 bytes are preserved,
    for file names that contain them. Only line feeds end lines: other separators may be part of a name.

    Raises:
        ValueError: The file is not text in one of these encodings.
    """
    data = Path(path).read_bytes()
    encoding = next((encoding for mark, encoding in MARKS.items() if data.startswith(mark)), 'utf-8')
    try:
        text = data.decode(encoding, 'surrogateescape')
    except UnicodeDecodeError as error:
        raise ValueError(f'{printable(path)} starts like {encoding} text but cannot be decoded ({error.reason})') from error
    if '\0' in text:
        raise ValueError(f'{printable(path)} is not UTF-8 text (it contains null bytes): save it as UTF-8')
    lines = text.replace('\r\n', '\n').split('\n') if '\n' in text else text.split('\r')
    return [(number, kept) for number, line in enumerate(lines, start=1) if (kept := line.strip(' \t\r'))]
