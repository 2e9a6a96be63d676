"""Packages that are missing, or that own the same modules."""

import base64
import hashlib
import importlib
import sys

import pytest

from mmadclr import packages
from mmadclr.config.findings import ConfigError
from mmadclr.config.loading import read_config
from mmadclr.packages import PackageError, check_families, failed_module, how_to_get, missing_module


@pytest.fixture
def site(tmp_path, monkeypatch):
    """``install(package, module, version, files)`` as pip does, in a folder that comes first."""
    folder = tmp_path / 'site'
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def install(package, module, version='1.0', **files):
        rows = []
        for name, text in {'__init__': '', **files}.items():
            file = folder / module / f'{name}.py'
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')
            rows.append(f'{module}/{name}.py,sha256={digest},{len(text)}')
        info = folder / f'{package.replace("-", "_")}-{version}.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n')
        (info / 'RECORD').write_text('\n'.join(rows) + '\n')
        importlib.invalidate_caches()

    monkeypatch.setattr(packages, 'OWNERS', {'mm_one': ('onedl-mm-one', 'mm-one'), 'mm_two': ('onedl-mm-two', 'mm-two')})
    monkeypatch.setattr(packages, 'EXTRAS', {'mm_one': 'dense', 'mm_two': 'dense'})
    return install


@pytest.mark.parametrize('package', ['onedl-mm-one', 'mm-one'])
def test_either_family_alone_is_fine(site, package):
    site(package, 'mm_one', a='x = 1')
    assert check_families() is None


def test_the_family_that_was_installed_last_works_and_is_named(site):
    site('onedl-mm-one', 'mm_one', '2.0', a='x = 1')
    site('mm-one', 'mm_one', '1.5', a='x = 2')
    assert check_families() == (
        'mm_one is installed by onedl-mm-one 2.0 and by mm-one 1.5, which overwrite files of each other; mm-one '
        'is used; to keep only that one: pip uninstall -y onedl-mm-one mm-one && pip install mm-one==1.5'
    )


def test_a_mixture_of_both_is_refused_with_what_to_remove(site):
    site('onedl-mm-one', 'mm_one', '2.0', a='x = 1', b='y = 1')
    site('mm-one', 'mm_one', '1.5', a='x = 2', c='z = 1')
    (packages.Path(sys.path[0]) / 'mm_one/c.py').unlink()
    with pytest.raises(
        PackageError, match=r'keep one: pip uninstall -y onedl-mm-one mm-one && pip install onedl-mm-one==2\.0'
    ):
        check_families()


def test_a_package_elsewhere_that_is_not_imported_does_no_harm(site, tmp_path, monkeypatch):
    site('onedl-mm-one', 'mm_one', a='x = 1')
    other = tmp_path / 'other/mm_one-1.5.dist-info'
    other.mkdir(parents=True)
    (other / 'METADATA').write_text('Metadata-Version: 2.1\nName: mm-one\nVersion: 1.5\n')
    monkeypatch.setattr(sys, 'path', [*sys.path, str(tmp_path / 'other')])
    assert check_families() is None


def test_families_that_do_not_fit_together_are_named_where_an_import_fails(site):
    site('onedl-mm-one', 'mm_one')
    site('mm-two', 'mm_two')
    assert how_to_get('mm_two') == (
        "mm-two and onedl-mm-one conflict: pip uninstall -y mm-two && pip install 'mmadclr[dense]'"
    )


def test_a_module_that_is_not_there_is_named_with_its_extra():
    assert how_to_get('onnx') == "install it: pip install 'mmadclr[export]'"
    assert how_to_get('nowhere') == 'no such module; the search path is the current folder and PYTHONPATH'


def raised(code):
    try:
        exec(code, {'__name__': 'mmdet.core'})
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize(
    ('code', 'module'),
    [
        ('import no_such.part', 'no_such'),
        ('try:\n  import no_such\nexcept ImportError: raise ImportError("a library says so")', 'no_such'),
        ('try:\n  import no_such\nexcept ImportError as e: raise RuntimeError("too") from e', 'no_such'),
        ('1 / 0', None),
    ],
)
def test_the_missing_module_behind_an_error(code, module):
    assert missing_module(raised(code)) == module


def test_a_package_whose_import_fails_otherwise_is_named():
    assert failed_module(raised('assert False, "wrong version"')) == 'mmdet'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (
            "custom_imports = dict(imports=['no_such'])",
            r'config .*a\.py needs no_such, which cannot be imported: no such module',
        ),
        (
            "_base_ = 'mmyolo::yolov5/a.py'",
            r'config .*a\.py needs mmyolo, which cannot be imported: no such module',
        ),
    ],
)
def test_configs_that_need_what_is_not_there(text, message, tmp_path):
    (tmp_path / 'a.py').write_text(f'{text}\n')
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path / 'a.py')


def test_errors_within_modules_of_ones_own_keep_their_traceback(tmp_path, monkeypatch):
    (tmp_path / 'own_module.py').write_text('assert False, "of its own"\n')
    (tmp_path / 'a.py').write_text("custom_imports = dict(imports=['own_module'])\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AssertionError, match='of its own'):
        read_config(tmp_path / 'a.py')
