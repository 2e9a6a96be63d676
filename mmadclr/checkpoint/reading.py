"""Reads checkpoint files without executing anything in them."""

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

from mmadclr.checkpoint.folders import SINGLE_FILES, check_not_shard, configuration, shards, weights_files
from mmadclr.checkpoint.unreadable import reason
from mmadclr.urls import is_public_name

# Globals needed to load tensors. All other globals in a pickle become placeholders.
# As facebook/dinov2-small; not a path of a file.
HUB_NAME = re.compile(r'[\w-]+/[\w.-]+(?<!\.pth)(?<!\.pt)(?<!\.bin)(?<!\.safetensors)(?<!\.ckpt)(?<!\.npz)')
TRUSTED = {
    ('collections', 'OrderedDict'): OrderedDict,
    ('torch._utils', '_rebuild_tensor_v2'): torch._utils._rebuild_tensor_v2,
    ('torch._utils', '_rebuild_parameter'): torch._utils._rebuild_parameter,
    ('torch', 'Size'): torch.Size,
}


class Untrusted:
    """Placeholder for an object of an untrusted class: accepts any arguments and state, and does nothing."""

    def __new__(cls, *args, **kwargs) -> Untrusted:
        return super().__new__(cls)

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __call__(self, *args, **kwargs) -> Untrusted:
        return Untrusted()

    def _ignore(self, *args, **kwargs) -> None:
        pass

    # Methods that unpickling calls on objects.
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

    Official checkpoints carry pickled objects besides tensors (argument namespaces, NumPy scalars, loggers). They are
    replaced by inert placeholders; no code is executed.

    For a folder in the format of transformers or timm: the tensors of all its shards and, by file name, the contents of
    ``config.json`` and ``preprocessor_config.json``. The same applies to the weights file or shard index of such a folder.

    Args:
        filename: File or folder, or the name of a public model (:mod:`mmadclr.checkpoint.public`).
        mapped: Memory-maps tensors of a ``.pth`` file: they are read on first use and shared by all processes.
            Checksums are not verified, and the file must not be overwritten while they are in use.

    Raises:
        FileNotFoundError: There is no such file, or a shard is missing.
        ValueError: The file is not a checkpoint, or is a TorchScript program or a single shard, or the folder has another
            format; describes what it is.
    """
    path = _local(filename)
    if path.is_dir():
        return {**_read_shards(weights_files(path)), **configuration(path)}
    if not path.is_file():
        hint = f'; for a model of the Hugging Face hub write hf:{filename}' if HUB_NAME.fullmatch(str(filename)) else ''
        raise FileNotFoundError(f'checkpoint {filename} does not exist{hint}')
    if path.name.endswith('.index.json'):
        return {**_read_shards(shards(path)), **configuration(path.parent)}
    check_not_shard(path)
    content = with_names_of_today(_read_file(path, mapped))
    return {**content, **configuration(path.parent)} if path.name in SINGLE_FILES else content


def _local(filename: str | Path) -> Path:
    """The path, or the folder of a public model."""
    if not is_public_name(str(filename)):
        return Path(filename)
    from mmadclr.checkpoint.public import local_path  # takes the client of the hub

    return local_path(filename)


def with_names_of_today(content: dict) -> dict:
    """Renames ``centre``, the name of loss centers in earlier versions of this project, to ``center``."""
    tensors = content.get('state_dict')
    if not isinstance(tensors, dict) or not any(str(name).endswith('.centre') for name in tensors):
        return content
    return {**content, 'state_dict': {re.sub(r'\.centre$', '.center', name): tensor for name, tensor in tensors.items()}}


def weights_of(filename: str | Path) -> list[Path]:
    """The files that hold the weights read by :func:`read_checkpoint`.

    Raises:
        FileNotFoundError, ValueError: As for that function.
    """
    path = _local(filename)
    if path.is_dir():
        return sorted(weights_files(path))
    return sorted(shards(path)) if path.name.endswith('.index.json') else [path]


def _read_shards(files: Mapping[Path, list[str] | None]) -> dict:
    tensors: dict = {}
    for path, names in files.items():
        content = _read_file(path)
        missing = [name for name in names or () if name not in content]
        if missing:
            raise ValueError(f'{path} lacks {missing[0]} and {len(missing) - 1} more tensors listed in its index')
        tensors |= content if names is None else {name: content[name] for name in names}
    return tensors


def _read_file(path: Path, mapped: bool = False) -> dict:
    try:
        if _is_safetensors(path):
            return load_file(path)
        if _is_torchscript(path):
            raise ValueError('it is a TorchScript program; save its state_dict() instead')
        mapped = mapped and zipfile.is_zipfile(path)  # files from before torch 1.6 are not zip archives
        content = _torch_load(path, mapped)
    except Exception as error:
        raise ValueError(f'{path} cannot be read as a checkpoint: {reason(path, error)}') from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ValueError(
            f'{path} is not a checkpoint: it holds a {kind}, not a dict of tensors; save the state_dict() of the model'
        )
    return content


def _torch_load(path: Path, mapped: bool) -> Any:
    settings: dict[str, Any] = dict(map_location='cpu', pickle_module=_INERT_PICKLE, weights_only=False)
    if path.suffix == '.safetensors':  # torch 2.15 would go by the name
        with path.open('rb') as file:
            return torch.load(file, **settings)
    return torch.load(path, mmap=mapped, **settings)


def _is_safetensors(path: Path) -> bool:
    """Decides by content: eight bytes of length, then a JSON object."""
    with path.open('rb') as file:
        length, brace = file.read(8), file.read(1)
    return len(length) == 8 and brace == b'{' and int.from_bytes(length, 'little') <= path.stat().st_size


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith('/constants.pkl') for name in archive.namelist())
