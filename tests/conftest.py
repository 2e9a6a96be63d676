"""Fixtures and helpers shared by all tests.

Torch and mmengine are imported by the processes that run tests, not by the one that distributes them, which starts sooner.
"""

from __future__ import annotations

import importlib.util
import signal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import places
import pytest
from golden_files import GoldenArrays, GoldenFolder
from PIL import Image
from unformatted import leave_configs_unformatted

if TYPE_CHECKING:
    import torch

pytest_plugins = ['short_runs']

FOLDER = pytest.StashKey[GoldenFolder]()
UNREAD = pytest.StashKey[list[list[str]]]()  # by each process of tests that has ended
LIMITS_S = {'slow': 3600, 'long': 1800}  # of a test with this mark
LONGEST = places.REPO / 'tests/tools'
DENSE = all(importlib.util.find_spec(name) for name in ('mmcv', 'mmdet', 'mmseg', 'mmpretrain'))


def pytest_addoption(parser) -> None:
    group = parser.getgroup('golden numbers')
    group.addoption(
        '--golden', type=Path, default=places.GOLDEN, metavar='DIR', help='golden files to test against (tests/data/golden)'
    )
    group.addoption('--golden-unread', action='store_true', help='list at the end the golden keys that no test has read')
    group.addoption('--record-curves', action='store_true', help='write the losses of short runs instead of comparing them')


def heed_interrupts() -> None:
    """Programs under test get Ctrl-C even if the tests were started in the background, where shells ignore SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def runs_tests(config) -> bool:
    """Whether this process runs them itself, or a part of them for the one that distributes them."""
    return hasattr(config, 'workerinput') or not config.getoption('numprocesses', None)


def pytest_configure(config) -> None:
    config.addinivalue_line('markers', 'golden: compares with the files of --golden')
    config.addinivalue_line('markers', 'golden_names(argument, file, pattern): once for each match among the keys of a file')
    if not config.getoption('golden').is_dir():
        raise pytest.UsageError(f'--golden {config.getoption("golden")}: no such folder')
    heed_interrupts()
    if runs_tests(config):
        leave_configs_unformatted()
        importlib.import_module('mmadclr.engine')  # what most tests need
    if DENSE and runs_tests(config):
        importlib.import_module('mmadclr.ops')  # the stand-in, before mmpretrain imports mmdet, which remembers what it has
    config.stash[FOLDER], config.stash[UNREAD] = GoldenFolder(config.getoption('golden').resolve()), []
    if config.getoption('record_curves') and config.getoption('dist', 'no') not in ('no', 'loadfile', 'loadscope'):
        raise pytest.UsageError('--record-curves: processes would overwrite the curves of each other; add --dist loadfile')


def pytest_generate_tests(metafunc) -> None:
    for mark in metafunc.definition.iter_markers('golden_names'):
        argument, file, pattern = mark.args
        folder = metafunc.config.stash[FOLDER]
        missing = pytest.mark.skip(reason=f'no {file}.npz in {folder.folder}')
        names = folder.names(file, pattern) or [pytest.param(None, marks=missing, id='missing')]
        metafunc.parametrize(argument, names, scope='function')


def pytest_sessionfinish(session) -> None:
    config = session.config
    if config.getoption('golden_unread') and hasattr(config, 'workeroutput'):
        config.workeroutput['golden_unread'] = config.stash[FOLDER].unread()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    node.config.stash[UNREAD].append(getattr(node, 'workeroutput', {}).get('golden_unread', []))


def pytest_terminal_summary(terminalreporter, config) -> None:
    if config.getoption('golden_unread'):
        terminalreporter.section('golden keys that no test has read')
        first, *others = config.stash[UNREAD] or [config.stash[FOLDER].unread()]
        unread = [key for key in first if all(key in other for other in others)]
        terminalreporter.write('\n'.join([*unread, '']))


@cache
def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items) -> None:
    items.sort(key=lambda item: not item.path.is_relative_to(LONGEST))  # so that the last ones to end are short
    for item in items:
        if 'golden' in getattr(item, 'fixturenames', ()):
            item.add_marker('golden')
        limit = next((seconds for mark, seconds in LIMITS_S.items() if item.get_closest_marker(mark)), None)
        if limit is not None:
            item.add_marker(pytest.mark.timeout(limit))
        if 'gpu' in item.keywords and not has_gpu():
            item.add_marker(pytest.mark.skip(reason='needs a GPU'))
        if 'dense' in item.keywords and not DENSE:
            item.add_marker(pytest.mark.skip(reason='needs the packages of requirements/dense.txt'))


@pytest.fixture(autouse=True)
def _scope_of_its_own():
    """A test that builds parts of mmdet or mmseg leaves no default scope behind, in which others would look for ours."""
    from mmengine.registry import DefaultScope

    before = dict(DefaultScope._instance_dict)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)


@pytest.fixture(autouse=True)
def _reproducible():
    import torch

    # One thread: tiny tensors gain nothing from more, and processes started by tests share the machine.
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def golden(request) -> GoldenFolder:
    """Golden files: ``golden(name)`` gives arrays by key, ``golden.path(file)`` a checkpoint."""
    return request.config.stash[FOLDER]


@pytest.fixture(scope='session')
def tensors():
    """Tensors of the arrays below a prefix, keyed by the rest of their name."""

    import torch

    def load(arrays: GoldenArrays, prefix: str, dtype=None) -> dict[str, torch.Tensor]:
        found = {name: torch.from_numpy(array) for name, array in arrays.below(prefix).items()}
        return {name: tensor.to(dtype) if dtype else tensor for name, tensor in found.items()}

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
