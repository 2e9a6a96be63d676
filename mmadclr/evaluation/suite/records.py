"""Results of finished protocols as files, so that an interrupted suite continues where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mmadclr.files import atomic_path

FORMAT = 1
KEYS = ('format', 'identity', 'metrics', 'units', 'notes', 'about', 'seconds')


def digest_of_weights(model: nn.Module, *others: Any) -> str:
    """Hash of all parameters and buffers of a model, and of other values."""
    found = hashlib.sha256(repr(others).encode())
    for name, value in sorted(model.state_dict().items()):
        found.update(f'{name} {tuple(value.shape)} {value.dtype}'.encode())
        found.update(value.detach().cpu().contiguous().float().numpy().tobytes())
    return found.hexdigest()


def record_path(folder: Path, benchmark: str, protocol: str) -> Path:
    """File of the result of a protocol."""
    return folder / 'results' / f'{benchmark}.{protocol}.json'


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a result atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({'format': FORMAT, **record}) + '\n')


def read_record(path: Path) -> dict[str, Any] | None:
    """A result; None if there is none.

    Raises:
        ValueError: The file is not a result of this version.
    """
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f'{path} is not a result of the dense suite ({error}): remove it') from error
    if not isinstance(record, dict) or record.get('format') != FORMAT or not set(KEYS) <= set(record):
        raise ValueError(f'{path} is not a result of this version of the dense suite: remove it')
    return record


def plain(value: Any) -> Any:
    """A value as JSON returns it: lists for tuples."""
    return json.loads(json.dumps(value))


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = '') -> list[str]:
    """What differs between two identities, in words."""
    texts = []
    for key in sorted(set(found) | set(wanted)):
        old, new = found.get(key), wanted.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            texts += differences(old, new, f'{prefix}{key}.' if key != 'settings' else '')
        elif old != new:
            is_hash = isinstance(new, str) and len(new) == 64
            texts.append(f'{prefix}{key} differ' if is_hash else f'{prefix}{key} was {old}, is {new}')
    return texts
