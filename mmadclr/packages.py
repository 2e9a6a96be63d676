"""Optional packages, and packages that conflict: which to install, which to remove.

The ``onedl-*`` packages are forks of OpenMMLab's packages under other names. Both contain ``mmengine``, ``mmcv`` and so on.
Each works alone. If both are installed, the later one has overwritten files of the other, and uninstalling one breaks both.
"""

from __future__ import annotations

import base64
import hashlib
import traceback
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

# Module -> the extra that installs it.
EXTRAS = {
    **dict.fromkeys(('mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'pycocotools'), 'dense'),
    **dict.fromkeys(('onnx', 'onnxruntime', 'onnxscript', 'transformers'), 'export'),
    **dict.fromkeys(('aiohttp', 'fsspec', 'gcsfs', 's3fs'), 'remote'),
    **dict.fromkeys(('imagecodecs', 'tifffile'), 'tiff'),
    **{name: name for name in ('aim', 'mlflow', 'wandb')},  # experiment trackers
    'scipy': 'evaluation',
    'shtab': 'completion',
    'torchcodec': 'decode',
}
# Module -> packages that contain it, starting with those that this project uses.
OWNERS = {
    'mmengine': ('onedl-mmengine', 'mmengine', 'mmengine-lite'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
}


class PackageError(ValueError):
    """Installed packages conflict, or one is missing."""


def install_command(module: str) -> str:
    """The command that installs a module with its companions."""
    return f"pip install 'mmadclr[{EXTRAS[module]}]'"


def missing_module(error: BaseException | None) -> str | None:
    """The missing module that caused an error, even if libraries have caught and re-raised it."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name.partition('.')[0]
        error = error.__cause__ or error.__context__
    return None


def failed_module(error: BaseException) -> str | None:
    """The missing module, or the module of ``EXTRAS`` whose import failed for another reason; None otherwise."""
    *_, (last, _) = traceback.walk_tb(error.__traceback__)
    package = last.f_globals.get('__name__', '').partition('.')[0]
    return missing_module(error) or (package if package in EXTRAS else None)


def how_to_get(module: str) -> str:
    """How to make a module importable: which packages to remove, or what to install."""
    if module not in EXTRAS:
        return 'no such module; the search path is the current folder and PYTHONPATH'
    names = [dist.metadata['Name'] for owned in OWNERS if owned in EXTRAS for dist in _installed(owned)]
    forks = [name for name in names if name.startswith('onedl-')]
    others = [name for name in names if name not in forks]
    if forks and others:
        return (
            f'{", ".join(others)} and {", ".join(forks)} conflict: '
            f'pip uninstall -y {" ".join(others)} && {install_command(module)}'
        )
    return f'install it: {install_command(module)}'


def check_families() -> str | None:
    """Looks for modules that two installed packages contain.

    Returns:
        A note, if the files of one of the two are complete, so that it works; None if there is no conflict.

    Raises:
        PackageError: The files of neither are complete.
    """
    said = []
    for module in OWNERS:
        installed = _in_one_folder(module)
        if len(installed) < 2:
            continue
        names = [f'{dist.metadata["Name"]} {dist.version}' for dist in installed]
        text = f'{module} is installed by {" and by ".join(names)}, which overwrite files of each other'
        complete = next((dist for dist in installed if _is_complete(dist)), None)
        kept = complete or installed[0]
        remedy = ' '.join(dist.metadata['Name'] for dist in installed)
        remedy = f'pip uninstall -y {remedy} && pip install {kept.metadata["Name"]}=={kept.version}'
        if complete is None:
            raise PackageError(f'{text}; keep one: {remedy}')
        said.append(f'{text}; {complete.metadata["Name"]} is used; to keep only that one: {remedy}')
    return '; '.join(said) or None


def _installed(module: str) -> Iterator[Distribution]:
    for name in OWNERS[module]:
        try:
            yield distribution(name)
        except PackageNotFoundError:
            continue


def _in_one_folder(module: str) -> list[Distribution]:
    """The packages whose files are in the folder that the module is imported from."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return []
    folder = Path(spec.origin).resolve().parents[1]
    return [dist for dist in _installed(module) if Path(str(dist.locate_file(''))).resolve() == folder]


def _is_complete(dist: Distribution) -> bool:
    """Whether all Python files of a package are unchanged since installation."""
    for file in dist.files or ():
        if file.suffix == '.py' and file.hash is not None:
            path = Path(file.locate())
            if not path.is_file() or _digest(file.hash.mode, path.read_bytes()) != file.hash.value:
                return False
    return True


def _digest(algorithm: str, content: bytes) -> str:
    """The digest in the format of the record of installed files."""
    return base64.urlsafe_b64encode(hashlib.new(algorithm, content).digest()).decode().rstrip('=')
