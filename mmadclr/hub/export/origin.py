"""Training metadata of a checkpoint."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mmadclr.checkpoint.reading import read_checkpoint, weights_of
from mmadclr.urls import is_public_name


class Origin(NamedTuple):
    """Where a backbone comes from, and how it was extracted.

    ``filename``: without folders. ``sha256``: of the file or files. ``which``: description of the network.
    ``resized``: whether positions were resized. If recorded in the file: ``method``, ``epochs``, ``data`` (folder
    of images).
    """

    filename: str
    sha256: str
    which: str
    resized: bool
    method: str | None
    epochs: int | None
    data: str | None


def read_origin(filename: str | Path, which: str, resized: bool, prefix: str | None = None) -> Origin:
    """Origin of one of our checkpoints, or of a file in DINO's layout, which records its epochs.

    Raises:
        FileNotFoundError, ValueError: The file cannot be read.
    """
    checkpoint = read_checkpoint(filename)
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    epochs = meta.get('epoch', checkpoint.get('epoch'))
    method, cfg = meta.get('method'), meta.get('cfg')
    return Origin(
        str(filename) if is_public_name(str(filename)) else Path(filename).resolve().name,
        _digest(filename),
        f'{which}, if it has both' if prefix is None else f'tensors below `{prefix}`',
        resized,
        method if isinstance(method, str) else None,
        epochs if isinstance(epochs, int) else None,
        data_root(cfg) if isinstance(cfg, str) else None,
    )


def _digest(filename: str | Path) -> str:
    """Of the file, or of all weight files of a folder concatenated in name order."""
    digest = hashlib.sha256()
    for path in weights_of(filename):
        with path.open('rb') as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def data_root(config: str) -> str | None:
    """``train_dataloader.dataset.data_root`` of a config's text, which is parsed but not executed."""
    try:
        statements = ast.parse(config).body
    except SyntaxError:
        return None
    values = {
        statement.targets[0].id: statement.value
        for statement in statements
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    }
    node = values.get('train_dataloader')
    for key in ('dataset', 'data_root'):
        keywords = node.keywords if isinstance(node, ast.Call) else []
        node = next((keyword.value for keyword in keywords if keyword.arg == key), None)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
