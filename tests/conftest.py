"""Fixtures and helpers shared by all tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from places import GOLDEN

DENSE = all(importlib.util.find_spec(name) for name in ('mmcv', 'mmdet', 'mmseg', 'mmpretrain'))


def pytest_collection_modifyitems(items) -> None:
    for item in items:
        if 'gpu' in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason='needs a GPU'))
        if 'dense' in item.keywords and not DENSE:
            item.add_marker(pytest.mark.skip(reason='needs the packages of requirements/dense.txt'))


@pytest.fixture(autouse=True)
def _reproducible():
    # One thread: tiny tensors gain nothing from more, and processes started by tests share the machine.
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def golden():
    """Loads a golden file as a dict of arrays."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f'{name}.npz', allow_pickle=False) as arrays:
            return dict(arrays)

    return load


@pytest.fixture
def tensors():
    """Tensors of the arrays below a prefix, keyed by the rest of their name."""

    def load(arrays: dict[str, np.ndarray], prefix: str, dtype=None) -> dict[str, torch.Tensor]:
        found = {k[len(prefix) :]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}
        return {k: v.to(dtype) if dtype else v for k, v in found.items()}

    return load


@pytest.fixture
def image_folder(tmp_path):
    """Writes ``count`` smooth random pictures in ``classes`` class folders; returns the folder."""

    def write(count: int = 12, classes: int = 2, size: tuple[int, int] = (48, 40), name: str = 'images') -> Path:
        rng = np.random.default_rng(0)
        root = tmp_path / name
        for number in range(count):
            folder = root / f'class{number % classes}'
            folder.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
            coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f'{number:03d}.png')
        return root

    return write
