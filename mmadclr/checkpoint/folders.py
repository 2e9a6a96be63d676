"""Folders of weights as transformers and timm write them: whole or in shards, with a configuration beside."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmadclr.checkpoint.library_config import CONFIG, PREPROCESSOR

# In the order transformers looks for them; an index names the shards.
WHOLE = ('model.safetensors', 'pytorch_model.bin')
INDICES = tuple(f'{name}.index.json' for name in WHOLE)
SHARD = re.compile(r'-(?P<number>\d{5})-of-(?P<total>\d{5})\.(safetensors|bin|pth|pt)$')
WEIGHTS = ('.pth', '.pt', '.ckpt', '.bin', '.safetensors', '.tar')
LIMIT = 64 * 2**20  # bytes of a JSON file; the largest index of a published model has some 100 kB
# What tells a folder that holds no weights we read.
OTHERS = (
    ('*.distcp', "a sharded checkpoint (torch.distributed.checkpoint): join it with torch's "
     '`python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE`'),
    ('snapshots/*/*', 'a cache of a model hub: give the folder below snapshots'),
    ('adapter_model.*', 'a set of adapters without the model they belong to'),
    ('model.onnx', 'an exported program, not weights: give the checkpoint it was made from'),
    ('tf_model.h5', 'a model of TensorFlow: save it from transformers as safetensors'),
    ('flax_model.msgpack', 'a model of Flax: save it from transformers as safetensors'),
)  # fmt: skip


def weights_files(folder: Path) -> Mapping[Path, list[str] | None]:
    """Files with the weights of a folder, with the names of the tensors in them, where an index tells them.

    Raises:
        FileNotFoundError: A shard is missing.
        ValueError: There are no weights of one model; says what the folder holds.
    """
    for whole, index in zip(WHOLE, INDICES, strict=True):
        if (folder / whole).is_file():
            return {folder / whole: None}
        if (folder / index).is_file():
            return shards(folder / index)
    raise ValueError(f'{folder} is a folder {_contents(folder)}')


def shards(index: Path) -> Mapping[Path, list[str] | None]:
    """Shards of an index file, with the tensors in each.

    Raises:
        FileNotFoundError: A shard is missing.
        ValueError: The file is no index.
    """
    places = read_json(index).get('weight_map')
    if not isinstance(places, dict) or not places:
        raise ValueError(f'{index} is no index of shards: it has no weight_map')
    found: dict[Path, list[str]] = {}
    for name, file in places.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise ValueError(f'{index}: {name} is said to be in {file!r}, which is no file beside it')
        found.setdefault(index.parent / file, []).append(name)
    missing = sorted(path.name for path in found if not path.is_file())
    if missing:
        raise FileNotFoundError(
            f'{index} names {len(found)} shards, and {len(missing)} of them are gone ({", ".join(missing[:3])}): fetch them'
        )
    return found


def check_whole(path: Path) -> None:
    """Refuses one of several shards.

    Raises:
        ValueError: It is one.
    """
    match = SHARD.search(path.name)
    if match and int(match['total']) > 1:
        raise ValueError(
            f'{path} is one of {int(match["total"])} shards of a model: give the folder that holds all, or their index'
        )


def configuration(folder: Path) -> dict[str, Any]:
    """Contents of the configurations in a folder by name of the file, as far as they are there.

    Raises:
        ValueError: One is no JSON object.
    """
    return {name: read_json(folder / name) for name in (CONFIG, PREPROCESSOR) if (folder / name).is_file()}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: It is no JSON file, or holds something else.
    """
    try:
        if path.stat().st_size > LIMIT:
            raise ValueError(f'{path.stat().st_size} bytes')
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is no JSON file: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds a {type(content).__name__}, not an object')
    return content


def _contents(folder: Path) -> str:
    for pattern, meaning in OTHERS:
        if any(folder.glob(pattern)):
            return f'with {meaning}'
    found = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHTS and path.is_file())
    if found:
        more = f' and {len(found) - 4} more' if len(found) > 4 else ''
        return f'with {", ".join(found[:4])}{more}: give one of them'
    return f'without weights: of folders, {", ".join((*WHOLE, *INDICES))} are read'
