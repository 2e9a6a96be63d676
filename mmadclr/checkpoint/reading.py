"""Reading a checkpoint file without running anything that is in it."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file

from mmadclr.checkpoint.folders import WHOLE, check_whole, configuration, shards, weights_files
from mmadclr.checkpoint.unreadable import reason

# What tensors are made of. Everything else a pickle may name becomes a placeholder.
TRUSTED = {
    ('collections', 'OrderedDict'): OrderedDict,
    ('torch._utils', '_rebuild_tensor_v2'): torch._utils._rebuild_tensor_v2,
    ('torch._utils', '_rebuild_parameter'): torch._utils._rebuild_parameter,
    ('torch', 'Size'): torch.Size,
}


class Untrusted:
    """Stands for an object of a class the reader does not know: takes any arguments and state, and does nothing."""

    def __new__(cls, *args, **kwargs) -> Untrusted:
        return super().__new__(cls)

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __call__(self, *args, **kwargs) -> Untrusted:
        return Untrusted()

    def _ignore(self, *args, **kwargs) -> None:
        pass

    # What a pickle does to objects once they are made.
    __setstate__ = __setitem__ = append = extend = add = _ignore

    def __hash__(self) -> int:
        return 0


class _InertUnpickler(pickle.Unpickler):
    """Resolves the names of ``TRUSTED``; any other global, callables included, becomes a fresh ``Untrusted`` class."""

    def find_class(self, module: str, name: str) -> Any:
        return TRUSTED.get((module, name)) or type(name, (Untrusted,), {})


# The part of the interface of `pickle` that torch.load uses.
_INERT_PICKLE = SimpleNamespace(
    __name__='inert pickle', Unpickler=_InertUnpickler, load=lambda file, **kwargs: _InertUnpickler(file, **kwargs).load()
)


def read_checkpoint(filename: str | Path, mapped: bool = False) -> dict:
    """Content of a ``.pth`` or ``.safetensors`` file, on the CPU, as a dict with the tensors in place.

    Official checkpoints carry pickled objects besides tensors (argument namespaces, NumPy scalars, loggers). None of
    them is built and no code is run: such objects come back as inert placeholders.

    Of a folder as transformers and timm write it: the tensors of all its shards and, by name of the file, the contents of
    ``config.json`` and ``preprocessor_config.json``. So it is with its weights file or the index of its shards.

    Args:
        filename: Of the file or folder.
        mapped: Tensors of a ``.pth`` file are pages of it, which are read when they are used and shared by all processes. No
            checksum is looked at, and the file must not be overwritten while they are in use.

    Raises:
        FileNotFoundError: There is no such file, or a shard is missing.
        ValueError: The file is no checkpoint, a TorchScript program, or one of several shards, or the folder is no such
            folder; says what it is.
    """
    path = Path(filename)
    if path.is_dir():
        return {**_read_shards(weights_files(path)), **configuration(path)}
    if not path.is_file():
        raise FileNotFoundError(f'checkpoint {filename} does not exist')
    if path.name.endswith('.index.json'):
        return {**_read_shards(shards(path)), **configuration(path.parent)}
    check_whole(path)
    content = with_names_of_today(_read_file(path, mapped))
    return {**content, **configuration(path.parent)} if path.name in WHOLE else content


def with_names_of_today(content: dict) -> dict:
    """A checkpoint of this project, whose earlier versions wrote the center of a loss as ``centre``."""
    tensors = content.get('state_dict')
    if not isinstance(tensors, dict) or not any(str(name).endswith('.centre') for name in tensors):
        return content
    return {**content, 'state_dict': {re.sub(r'\.centre$', '.center', name): tensor for name, tensor in tensors.items()}}


def weights_of(filename: str | Path) -> list[Path]:
    """The files that hold the weights of what :func:`read_checkpoint` reads.

    Raises:
        FileNotFoundError, ValueError: As there.
    """
    path = Path(filename)
    if path.is_dir():
        return sorted(weights_files(path))
    return sorted(shards(path)) if path.name.endswith('.index.json') else [path]


def _read_shards(files: Mapping[Path, list[str] | None]) -> dict:
    tensors: dict = {}
    for path, names in files.items():
        content = _read_file(path)
        missing = [name for name in names or () if name not in content]
        if missing:
            raise ValueError(f'{path} lacks {missing[0]} and {len(missing) - 1} more tensors that its index says it has')
        tensors |= content if names is None else {name: content[name] for name in names}
    return tensors


def _read_file(path: Path, mapped: bool = False) -> dict:
    try:
        if _is_safetensors(path):
            return load_file(path)
        if _is_torchscript(path):
            raise ValueError('it is a TorchScript program; save its state_dict() instead')
        mapped = mapped and zipfile.is_zipfile(path)  # before torch 1.6 files were something else
        content = torch.load(path, map_location='cpu', pickle_module=_INERT_PICKLE, weights_only=False, mmap=mapped)
    except Exception as error:
        raise ValueError(f'{path} cannot be read as a checkpoint: {reason(path, error)}') from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ValueError(
            f'{path} holds a {kind}, not a dict of tensors: it is no checkpoint; of a model, save its state_dict()'
        )
    return content


def _is_safetensors(path: Path) -> bool:
    """By content, whatever the name: eight bytes of length, then a JSON object."""
    with path.open('rb') as file:
        length, brace = file.read(8), file.read(1)
    return len(length) == 8 and brace == b'{' and int.from_bytes(length, 'little') <= path.stat().st_size


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith('/constants.pkl') for name in archive.namelist())
