"""Rooms of the package import only what is below them, so that no two import each other."""

import ast

import pytest
from places import REPO

# From the top to the bottom: a room may import any room in a line below its own.
ROOMS = (
    ('__main__',),
    ('cli',),
    ('compare', 'adaptation'),
    ('engine', 'api', 'visualization', 'push'),
    ('report',),
    ('show',),
    ('evaluation',),
    ('hub', 'ops'),
    ('models',),
    ('datasets',),
    ('reliability', 'config'),
    ('console',),
    ('checkpoint', 'distributed'),
    ('files', 'urls', 'registry', 'precision', 'schedules'),
    ('names', 'packages', 'shipped', 'annotations', '__version__'),
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
PACKAGE = REPO / 'mmadclr'


def imported(tree):
    """Dotted names of what a module imports of the package, also within functions and for type checkers alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, 'imports are absolute'
            if node.module.split('.')[0] == 'mmadclr':
                yield from (f'{node.module}.{alias.name}' for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith('mmadclr.'))


@pytest.mark.parametrize('path', sorted(PACKAGE.rglob('*.py')), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    room = path.relative_to(PACKAGE).with_suffix('').parts[0]
    if room == '__init__':
        return  # the door: from it, users get what is at the top
    others = {name.split('.')[1] for name in imported(ast.parse(path.read_text()))} - {room}
    assert {other for other in others if LEVEL[other] <= LEVEL[room]} == set()


def test_every_room_is_named():
    found = {path.name.removesuffix('.py') for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == '.py'}
    assert found - {'__init__', '__pycache__', 'py.typed'} == LEVEL.keys() - {'__version__'}
