"""Explains why a file is not a checkpoint, from its first bytes."""

from __future__ import annotations

import zipfile
from pathlib import Path

HEAD = 512
MAGIC = (
    (b'version https://git-lfs', 'it is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`'),
    (b'\x1f\x8b', 'it is a gzip archive: unpack it'),
    (b'BZh', 'it is a bzip2 archive: unpack it'),
    (b'\xfd7zXZ', 'it is an xz archive: unpack it'),
    (b'\x28\xb5\x2f\xfd', 'it is a zstd archive: unpack it'),
    (b'7z\xbc\xaf', 'it is a 7z archive: unpack it'),
    (b'\x89HDF', 'it is an HDF5 file, such as a Keras model'),
    (b'\x93NUMPY', 'it is a NumPy array'),
    (b'\x89PNG', 'it is an image'),
    (b'\xff\xd8\xff', 'it is an image'),
    (b'%PDF', 'it is a PDF document'),
    (b'GGUF', 'it is a GGUF file of quantized weights'),
)
MARKUP = ('<!doctype', '<html', '<?xml', '<head', '<body', '<error')


def reason(path: Path, error: Exception) -> str:
    """One line on why ``path`` cannot be read; ``error`` is the reader's error, used if nothing more specific is known."""
    try:
        with path.open('rb') as file:
            head = file.read(HEAD)
        known = _known(path, head)
    except OSError as failure:
        known = failure.strerror or str(failure)
    if known is None and 'UntypedStorage' in str(error):
        known = 'it holds an unsupported dtype such as float8 or uint16, as in quantized files'
    said = str(error).strip().splitlines() or [type(error).__name__]
    return known or said[0]


def _known(path: Path, head: bytes) -> str | None:
    if not head.strip(b'\x00'):
        return 'it is empty' if not head else 'it starts with zeros, like a file from an interrupted download or copy'
    for magic, meaning in MAGIC:
        if head.startswith(magic):
            return meaning
    if head[257:262] == b'ustar':
        return 'it is a tar archive: unpack it'
    if head.startswith(b'PK\x03\x04'):
        return _archive(path)
    return _text(head)


def _archive(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):
        return f'it is truncated at {path.stat().st_size} bytes; download or copy it again'
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return None
    if any(name.endswith('.npy') for name in names):
        return 'it is an archive of NumPy arrays, such as a JAX model: load it with timm and save the state_dict()'
    if any(name.endswith('data.pkl') for name in names):
        return None
    return f'it is a zip archive of other files ({", ".join(names[:3])}): unpack it'


def _text(head: bytes) -> str | None:
    start = head.lstrip(b'\xef\xbb\xbf').lstrip()
    if any(byte < 9 or 13 < byte < 32 for byte in start) or not start:
        return None
    text = start.decode('utf-8', errors='replace')
    if text.lower().startswith(MARKUP):
        return 'it is a web page (HTML) sent instead of the file: download it again, after logging in if necessary'
    if text.count('\ufffd') > 2:  # the last character may be truncated
        return None
    line = ' '.join(text.split())[:40]
    return f'it is text ({line!r})'
