"""Reading a checkpoint file without running anything that is in it."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file

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


def read_checkpoint(filename: str | Path) -> dict:
    """Content of a ``.pth`` or ``.safetensors`` file, on the CPU, as a dict with the tensors in place.

    Official checkpoints carry pickled objects besides tensors (argument namespaces, NumPy scalars, loggers). None of
    them is built and no code is run: such objects come back as inert placeholders.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no checkpoint, or is a TorchScript program.
    """
    path = Path(filename)
    if not path.is_file():
        raise FileNotFoundError(f'checkpoint {filename} does not exist')
    try:
        if path.suffix == '.safetensors':
            return load_file(path)
        if _is_torchscript(path):
            raise ValueError('it is a TorchScript program; save its state_dict() instead')
        content = torch.load(path, map_location='cpu', pickle_module=_INERT_PICKLE, weights_only=False)
    except Exception as error:
        raise ValueError(f'{filename} cannot be read as a checkpoint: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{filename} holds a {type(content).__name__}, not a dict of tensors: it is no checkpoint')
    return content


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith('/constants.pkl') for name in archive.namelist())
