"""What is imported is declared, and the version stands in one place."""

import ast
import re
import sys
import tomllib
from functools import cache

import pytest
from places import REPO

from mmadclr import __version__
from mmadclr.packages import EXTRAS

# Packages whose modules are called otherwise; all others are called as their package.
MODULES = {
    'onedl-mmengine': 'mmengine',
    'onedl-mmcv': 'mmcv',
    'onedl-mmpretrain': 'mmpretrain',
    'onedl-mmdetection': 'mmdet',
    'onedl-mmsegmentation': 'mmseg',
    'opencv-python-headless': 'cv2',
    'pillow': 'PIL',
}
PROJECT = tomllib.loads((REPO / 'pyproject.toml').read_text())
OPTIONAL = PROJECT['tool']['setuptools']['dynamic']['optional-dependencies']


def declared(name):
    """Modules of the packages of a file of requirements."""
    lines = (REPO / 'requirements' / f'{name}.txt').read_text().splitlines()
    packages = [re.split(r'[<>=!~\[ ;]', line)[0].lower() for line in lines if line and not line.startswith('#')]
    return {MODULES.get(package, package) for package in packages}


def imports(path):
    """Modules of others that a file imports: (name, whether with the file or only when it is needed)."""
    for node, at_once in statements(ast.parse(path.read_text()), True):
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        for name in {name.partition('.')[0] for name in names} - {'mmadclr'} - sys.stdlib_module_names:
            yield name, at_once


def statements(node, at_once):
    """Nodes below one, and whether they are run with the file: not in functions, nor for type checkers, nor in attempts."""
    yield node, at_once
    top = isinstance(node, ast.Module)
    for child in ast.iter_child_nodes(node):
        late = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) or (
            top and (isinstance(child, ast.Try) or (isinstance(child, ast.If) and 'TYPE_CHECKING' in ast.dump(child.test)))
        )
        yield from statements(child, at_once and not late)


@cache
def found():
    """(name, whether at once, file) of all imports of the package."""
    return sorted({(name, at_once, path) for path in (REPO / 'mmadclr').rglob('*.py') for name, at_once in imports(path)})


def test_what_modules_import_at_once_comes_with_the_package():
    dense = ('dense_shapes.py', 'loaders.py', 'coco_checks.py', 'vit_pyramid.py', 'linear_sweep.py')  # imported by configs
    needed = {(name, str(path)) for name, at_once, path in found() if at_once and path.name not in dense}
    assert {(name, path) for name, path in needed if name not in declared('runtime')} == set()
    assert {'torch', 'mmengine', 'safetensors', 'PIL', 'cv2'} <= {name for name, _ in needed}


def test_everything_imported_comes_with_the_package_or_an_extra():
    known = declared('runtime').union(*(declared(name) for name in OPTIONAL if name != 'tests'))
    assert {name for name, _, _ in found()} - known == set()


@pytest.mark.parametrize('module', EXTRAS)
def test_errors_name_the_extra_that_brings_a_module(module):
    assert module in declared(EXTRAS[module])
    assert module not in declared('runtime')


def test_every_file_of_requirements_is_an_extra():
    files = {path.stem for path in (REPO / 'requirements').glob('*.txt')} - {'runtime', 'constraints', 'gpu'}
    assert files == set(OPTIONAL)
    assert all(settings == {'file': [f'requirements/{name}.txt']} for name, settings in OPTIONAL.items())


def test_the_version_stands_in_one_place():
    assert PROJECT['tool']['setuptools']['dynamic']['version'] == {'attr': 'mmadclr.__version__'}
    assert 'version' not in PROJECT['project']
    assert f'\nversion: {__version__}\n' in (REPO / 'CITATION.cff').read_text()


def test_named_extras_of_messages_exist():
    text = ''.join(path.read_text() for path in (REPO / 'mmadclr').rglob('*.py'))
    named = {extra for group in re.findall(r'mmadclr\[([\w,]+)\]', text) for extra in group.split(',')}
    assert named <= set(OPTIONAL)
    assert named >= {'export', 'remote', 'evaluation', 'tiff', 'completion'}
