"""Names of files as they come: of any bytes, hidden or not, and lists of them in any common text encoding."""

from __future__ import annotations

import codecs
import os
import unicodedata
from pathlib import Path

# What systems and programs leave beside images, other than names that begin with a dot.
FOLDERS_LEFT_BEHIND = ('__macosx', '@eadir', '$recycle.bin', 'lost+found', 'system volume information')
FILES_LEFT_BEHIND = ('thumbs.db', 'ehthumbs.db', 'desktop.ini')
UNPRINTABLE = frozenset({'Cc', 'Cs', 'Zl', 'Zp'})  # control characters, bytes that are no Unicode, line ends of Unicode
# UTF-32 first: its mark begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: 'utf-32',
    codecs.BOM_UTF32_BE: 'utf-32',
    codecs.BOM_UTF8: 'utf-8-sig',
    codecs.BOM_UTF16_LE: 'utf-16',
    codecs.BOM_UTF16_BE: 'utf-16',
}


def printable(name: str | os.PathLike) -> str:
    r"""A name as messages and text files show it: one line of valid Unicode, the same for the same name.

    Bytes that are no Unicode become ``\xe9``, line ends and other control characters ``\n``, ``\x1b``. Any other name, with
    blanks, quotes or letters of any script, stays as it is.
    """
    name = os.fspath(name)
    if name.isprintable():
        return name
    return ''.join(_escaped(c) if unicodedata.category(c) in UNPRINTABLE else c for c in name)


def _escaped(character: str) -> str:
    if '\udc80' <= character <= '\udcff':  # how Python holds a byte that is no Unicode
        return f'\\x{ord(character) - 0xDC00:02x}'
    return character.encode('unicode_escape', 'surrogatepass').decode()


def is_hidden(path: str) -> bool:
    """Whether any part of a relative path is hidden, or what a system left behind (``.ipynb_checkpoints``, ``__MACOSX``)."""
    parts = (part for part in path.split('/') if part not in ('', '.', '..'))
    return any(part.startswith('.') or part.lower() in FOLDERS_LEFT_BEHIND + FILES_LEFT_BEHIND for part in parts)


def read_lines(path: str | Path) -> list[tuple[int, str]]:
    """Numbers, from 1, and contents of the lines of a text file that hold something, without the blanks around them.

    UTF-8, or UTF-16 and UTF-32 with a byte-order mark; line ends of any system. Bytes that are no UTF-8 are taken as they
    are, for names of files that are none either. Only line feeds end lines: others may be part of a name.

    Raises:
        ValueError: The file is no text in one of these.
    """
    data = Path(path).read_bytes()
    encoding = next((encoding for mark, encoding in MARKS.items() if data.startswith(mark)), 'utf-8')
    try:
        text = data.decode(encoding, 'surrogateescape')
    except UnicodeDecodeError as error:
        raise ValueError(f'{printable(path)} begins like a text in {encoding} but is none ({error.reason})') from error
    if '\0' in text:
        raise ValueError(f'{printable(path)} is no text in UTF-8 (it holds zero bytes): save it as UTF-8')
    lines = text.replace('\r\n', '\n').split('\n') if '\n' in text else text.split('\r')
    return [(number, kept) for number, line in enumerate(lines, start=1) if (kept := line.strip(' \t\r'))]
