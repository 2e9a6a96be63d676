"""Golden numbers of a folder, as tests read them: by key, with what the file says of its own sizes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from torch import nn


class GoldenArrays(Mapping):
    """Arrays of one file by key; ``unread`` are the keys that nobody asked for."""

    def __init__(self, arrays: Mapping[str, object]) -> None:
        self._arrays = dict(arrays)
        self.unread = dict.fromkeys(self._arrays)  # in the order of the file

    def __getitem__(self, key: str):
        self.unread.pop(key, None)
        return self._arrays[key]

    def __contains__(self, key: object) -> bool:  # asking whether a key is there does not read it
        return key in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    @cached_property
    def config(self) -> Settings:
        return Settings(self)

    def below(self, prefix: str) -> dict[str, np.ndarray]:
        """What has a key with this prefix, by the rest of the key."""
        return {key.removeprefix(prefix): self[key] for key in self if key.startswith(prefix)}

    def arch(self, params: str) -> dict:
        """Sizes of the backbone whose weights are below ``params``; only the number of heads cannot be read off them."""
        width, _, patch, _ = self[f'{params}patch_embed.proj.weight'].shape
        blocks = {key.removeprefix(f'{params}blocks.').split('.')[0] for key in self if key.startswith(f'{params}blocks.')}
        hidden = self[f'{params}blocks.0.mlp.fc1.weight'].shape[0]
        found = dict(embed_dim=width, depth=len(blocks), patch_size=patch, mlp_ratio=hidden / width)
        for name, value in found.items():
            assert self.config.get(name, value) == value, f'config/{name} is not that of the weights'
        return found | dict(num_heads=self.config['num_heads'])

    def head(self, params: str) -> dict:
        """Sizes of the projection head whose weights are below ``params``, by DINOHead's names."""
        layers = sorted(key for key in self if re.fullmatch(rf'{re.escape(params)}mlp(\.\d+)?\.weight', key))
        prototypes, bottleneck = self[f'{params}last_layer.weight_v'].shape
        found = dict(out_dim=prototypes, bottleneck_dim=bottleneck)
        found |= dict(hidden_dim=self[layers[0]].shape[0]) if len(layers) > 1 else {}
        for name, value in found.items():
            assert self.config.get(name, value) == value, f'config/{name} is not that of the weights'
        return found | dict(num_layers=len(layers))


class Settings(Mapping):
    """The scalars ``config/*`` of a file as Python numbers."""

    def __init__(self, arrays: GoldenArrays) -> None:
        self._arrays = arrays

    def __getitem__(self, key: str):
        return self._arrays[f'config/{key}'].item()

    def __contains__(self, key: object) -> bool:
        return f'config/{key}' in self._arrays

    def __iter__(self) -> Iterator[str]:
        return (key.removeprefix('config/') for key in self._arrays if key.startswith('config/'))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class GoldenFolder:
    """The files of a folder; a test that asks for one that is not there is skipped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrays = cache(self._open)

    def __call__(self, name: str) -> GoldenArrays:
        """The arrays of ``name``.npz, the objects of ``name``.json."""
        return self.arrays(name)

    def path(self, name: str) -> Path:
        if not (self.folder / name).exists():
            pytest.skip(f'no {name} in {self.folder}')
        return self.folder / name

    def _open(self, name: str) -> GoldenArrays:
        if (self.folder / f'{name}.json').exists():
            return GoldenArrays(json.loads((self.folder / f'{name}.json').read_text()))
        with np.load(self.path(f'{name}.npz'), allow_pickle=False) as arrays:
            return GoldenArrays(arrays)

    def names(self, file: str, pattern: str) -> list[str]:
        """What the group of a pattern stands for in the keys of a file; none if the file is not there."""
        if not (self.folder / f'{file}.npz').exists():
            return []
        found = (re.fullmatch(pattern, key) for key in self(file))
        return list(dict.fromkeys(match[1] for match in found if match))

    def unread(self) -> list[str]:
        """``file: key`` of all that no test has read so far."""
        files = sorted(path.relative_to(self.folder).with_suffix('') for path in self.folder.rglob('*.[nj][ps]*'))
        return [f'{file}: {key}' for file in map(str, files) for key in self(file).unread]


def enlarged(expected: GoldenArrays) -> np.ndarray:
    """The native input of a checkpoint's features: the stored picture, every value repeated along both sides."""
    small = expected['image_low_resolution']
    factor = expected.config['img_size'] // small.shape[-1]
    return np.kron(small, np.ones((1, 1, factor, factor), small.dtype))


def watch_gradients(model: nn.Module) -> dict[str, float]:
    """Norms of the gradients as backward leaves them, before anything clips or drops them; of the last step."""
    norms: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p, name=name: norms.update({name: p.grad.norm().item()}))
    return norms
