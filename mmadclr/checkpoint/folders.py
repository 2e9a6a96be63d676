"""Weight folders in the formats of transformers and timm: a single file or shards, with a configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmadclr.checkpoint.library_config import CONFIG, PREPROCESSOR

# In transformers' order of precedence; an index lists the shards.
SINGLE_FILES = ('model.safetensors', 'pytorch_model.bin')
INDICES = tuple(f'{name}.index.json' for name in SINGLE_FILES)
SHARD = re.compile(r'-(?P<number>\d{5})-of-(?P<total>\d{5})\.(safetensors|bin|pth|pt)$')
PART_OF_PROCESS = re.compile(r'\.rank_\d+\.(pth|pt)$')  # of FSDP runs of DINOv2
WEIGHTS = ('.pth', '.pt', '.ckpt', '.bin', '.safetensors', '.tar')
LIMIT = 64 * 2**20  # bytes of a JSON file; the largest index of a published model has about 100 kB
# Contents that identify folders of unsupported formats.
OTHERS = (
    ('*.distcp', "a sharded checkpoint (torch.distributed.checkpoint): merge it with torch's "
     '`python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE`, or use teacher_checkpoint.pth if the '
     'run wrote one'),
    ('snapshots/*/*', 'a model hub cache: use the folder below snapshots'),
    ('adapter_model.*', 'adapters without the base model'),
    ('model.onnx', 'an exported program, not weights: use the checkpoint it was exported from'),
    ('tf_model.h5', 'a TensorFlow model: save it from transformers as safetensors'),
    ('flax_model.msgpack', 'a Flax model: save it from transformers as safetensors'),
)  # fmt: skip


def weights_files(folder: Path) -> Mapping[Path, list[str] | None]:
    """The weight files of a folder, each with the names of its tensors if an index lists them.

    Raises:
        FileNotFoundError: A shard is missing.
        ValueError: The folder does not hold the weights of one model; describes what it holds.
    """
    for whole, index in zip(SINGLE_FILES, INDICES, strict=True):
        if (folder / whole).is_file():
            return {folder / whole: None}
        if (folder / index).is_file():
            return shards(folder / index)
    raise ValueError(f'{folder} is a folder {_contents(folder)}')


def shards(index: Path) -> Mapping[Path, list[str] | None]:
    """Shards listed in an index file, with the tensors in each.

    Raises:
        FileNotFoundError: A shard is missing.
        ValueError: The file is not an index.
    """
    places = read_json(index).get('weight_map')
    if not isinstance(places, dict) or not places:
        raise ValueError(f'{index} is not a shard index: it has no weight_map')
    found: dict[Path, list[str]] = {}
    for name, file in places.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise ValueError(f'{index}: {name} is listed in {file!r}, which must be a file name in the same folder')
        found.setdefault(index.parent / file, []).append(name)
    missing = sorted(path.name for path in found if not path.is_file())
    if missing:
        raise FileNotFoundError(
            f'{index} lists {len(found)} shards; {len(missing)} are missing ({", ".join(missing[:3])}): download them'
        )
    return found


def check_not_shard(path: Path) -> None:
    """Rejects a single shard of a sharded model, and the part of one process.

    Raises:
        ValueError: ``path`` is one.
    """
    if PART_OF_PROCESS.search(path.name):
        raise ValueError(
            f'{path} is the part of one process of an FSDP run, as DINOv2 saves it for resuming: use '
            'eval/ITERATION/teacher_checkpoint.pth of that run'
        )
    match = SHARD.search(path.name)
    if match and int(match['total']) > 1:
        raise ValueError(
            f'{path} is one of {int(match["total"])} shards of a model: use the folder with all shards, or their index'
        )


def configuration(folder: Path) -> dict[str, Any]:
    """Contents of the configuration files present in a folder, by file name.

    Raises:
        ValueError: A file is not a JSON object.
    """
    return {name: read_json(folder / name) for name in (CONFIG, PREPROCESSOR) if (folder / name).is_file()}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: The file is not JSON, or not an object.
    """
    try:
        if path.stat().st_size > LIMIT:
            raise ValueError(f'{path.stat().st_size} bytes')
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is not a JSON file: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} contains a {type(content).__name__}, not a JSON object')
    return content


def _contents(folder: Path) -> str:
    for pattern, meaning in OTHERS:
        if any(folder.glob(pattern)):
            return f'with {meaning}'
    found = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHTS and path.is_file())
    if found:
        more = f' and {len(found) - 4} more' if len(found) > 4 else ''
        return f'with {", ".join(found[:4])}{more}: use one of them'
    return f'without weights: it must contain one of {", ".join((*SINGLE_FILES, *INDICES))}'
