"""Packages that only some uses need, and packages that bring the same modules: what to install, what to remove.

The ``onedl-*`` packages are forks of OpenMMLab's under other names, and both own ``mmengine``, ``mmcv`` and so on. Either
works alone. Where both are installed, the later one has overwritten files of the other, and to uninstall one breaks both.
"""

from __future__ import annotations

import base64
import hashlib
import traceback
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

# Module -> the extra that brings it.
EXTRAS = {
    **dict.fromkeys(('mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'pycocotools'), 'dense'),
    **dict.fromkeys(('onnx', 'onnxruntime', 'onnxscript', 'transformers'), 'export'),
    **dict.fromkeys(('aiohttp', 'fsspec', 'gcsfs', 's3fs'), 'remote'),
    **dict.fromkeys(('imagecodecs', 'tifffile'), 'tiff'),
    'scipy': 'evaluation',
    'shtab': 'completion',
    'torchcodec': 'decode',
}
# Module -> packages that own it: those this project names first.
OWNERS = {
    'mmengine': ('onedl-mmengine', 'mmengine', 'mmengine-lite'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
}


class PackageError(ValueError):
    """Installed packages exclude each other, or one is missing."""


def install_command(module: str) -> str:
    """The command that installs a module with all that is needed beside it."""
    return f"pip install 'mmadclr[{EXTRAS[module]}]'"


def missing_module(error: BaseException | None) -> str | None:
    """The module whose absence is behind an error, also where libraries have caught and raised it again."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name.partition('.')[0]
        error = error.__cause__ or error.__context__
    return None


def failed_module(error: BaseException) -> str | None:
    """The module that is missing, or of ``EXTRAS`` the one in which an import went wrong otherwise; None for any other."""
    *_, (last, _) = traceback.walk_tb(error.__traceback__)
    package = last.f_globals.get('__name__', '').partition('.')[0]
    return missing_module(error) or (package if package in EXTRAS else None)


def how_to_get(module: str) -> str:
    """What to do about a module that cannot be imported: which packages to remove, or what to install."""
    if module not in EXTRAS:
        return 'there is no such module; it is looked for in the current folder and in those of PYTHONPATH'
    names = [dist.metadata['Name'] for owned in OWNERS if owned in EXTRAS for dist in _installed(owned)]
    forks = [name for name in names if name.startswith('onedl-')]
    others = [name for name in names if name not in forks]
    if forks and others:
        return (
            f'{", ".join(others)} and {", ".join(forks)} do not fit together: '
            f'pip uninstall -y {" ".join(others)} && {install_command(module)}'
        )
    return f'install it: {install_command(module)}'


def check_families() -> str | None:
    """Looks for modules that two installed packages own.

    Returns:
        What to say where the files of one of the two are complete, so that it works; None where there is nothing to say.

    Raises:
        PackageError: The files of neither are.
    """
    said = []
    for module in OWNERS:
        installed = _in_one_folder(module)
        if len(installed) < 2:
            continue
        names = [f'{dist.metadata["Name"]} {dist.version}' for dist in installed]
        text = f'{module} is installed by {" and by ".join(names)}, which overwrite the files of each other'
        complete = next((dist for dist in installed if _is_complete(dist)), None)
        kept = complete or installed[0]
        remedy = ' '.join(dist.metadata['Name'] for dist in installed)
        remedy = f'pip uninstall -y {remedy} && pip install {kept.metadata["Name"]}=={kept.version}'
        if complete is None:
            raise PackageError(f'{text}; keep one: {remedy}')
        said.append(f'{text}; used is {complete.metadata["Name"]}, and to keep it alone: {remedy}')
    return '; '.join(said) or None


def _installed(module: str) -> Iterator[Distribution]:
    for name in OWNERS[module]:
        try:
            yield distribution(name)
        except PackageNotFoundError:
            continue


def _in_one_folder(module: str) -> list[Distribution]:
    """The packages that have put their files where the module is imported from."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return []
    folder = Path(spec.origin).resolve().parents[1]
    return [dist for dist in _installed(module) if Path(str(dist.locate_file(''))).resolve() == folder]


def _is_complete(dist: Distribution) -> bool:
    """Whether every Python file of a package is as it was installed."""
    for file in dist.files or ():
        if file.suffix == '.py' and file.hash is not None:
            path = Path(file.locate())
            if not path.is_file() or _digest(file.hash.mode, path.read_bytes()) != file.hash.value:
                return False
    return True


def _digest(algorithm: str, content: bytes) -> str:
    """As in the record of installed files."""
    return base64.urlsafe_b64encode(hashlib.new(algorithm, content).digest()).decode().rstrip('=')
