"""The printed config is the config, and each value names the line that set it."""

import runpy
import sys

import pytest
from mmengine.config import Config
from places import REPO

from mmadclr.config.origin import find_origins, render, select, settings_of

CONFIGS = sorted(path for path in (REPO / 'configs').rglob('*.py') if '_base_' not in path.parts)
PLAIN = [path for path in CONFIGS if 'benchmarks' not in path.parts]


@pytest.fixture
def print_config(monkeypatch, capsys):
    """Runs the tool; returns what it prints."""

    def run(*arguments):
        monkeypatch.chdir(REPO)
        monkeypatch.setattr(sys, 'argv', ['print_config.py', *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path('tools/print_config.py', run_name='__main__')
        return capsys.readouterr().out

    return run


def leaves(node, path=''):
    children = node.items() if isinstance(node, dict) else enumerate(node) if nested(node) else None
    if not children:
        yield path, node
        return
    for key, child in children:
        yield from leaves(child, f'{path}.{key}' if path else str(key))


def nested(node):
    return isinstance(node, (list, tuple)) and any(isinstance(child, (dict, list, tuple)) for child in node)


def check_round_trip(path, tmp_path):
    """What is printed can be loaded, is the same, and every value has an origin whose line holds its key or its value."""
    cfg = Config.fromfile(path).to_dict()
    origin = find_origins(path, (), REPO)
    printed = tmp_path / 'printed.py'
    printed.write_text(render(cfg, origin))
    assert Config.fromfile(printed).to_dict() == cfg
    for key, _ in leaves(cfg):
        if not key.endswith('_scope_'):  # mmengine's own
            assert ':' in origin(key), key
    assert max(map(len, printed.read_text().splitlines())) < 200


@pytest.mark.parametrize('path', PLAIN, ids=lambda path: str(path.relative_to(REPO / 'configs')))
def test_pretraining_configs(path, tmp_path):
    check_round_trip(path, tmp_path)
    cfg = Config.fromfile(path).to_dict()
    origin = find_origins(path, (), REPO)
    for key, _ in leaves(cfg):
        name, line = origin(key).split(':')
        words = [part for part in key.split('.') if not part.isdigit()]
        text = (REPO / name).read_text().splitlines()[int(line) - 1]
        assert words[-1] in text or words[-2] in text, (key, text)


@pytest.mark.dense
@pytest.mark.parametrize('path', [p for p in CONFIGS if p not in PLAIN], ids=lambda p: str(p.relative_to(REPO / 'configs')))
def test_benchmark_configs(path, tmp_path):
    check_round_trip(path, tmp_path)


@pytest.fixture
def files(tmp_path):
    (tmp_path / 'base.py').write_text(
        'width = 8\n'
        "model = dict(type='A',\n"
        '             size=width,\n'
        '             deep=dict(a=1, b=dict(c=2)), old=dict(x=1, y=2),\n'
        '             steps=[dict(n=i) for i in range(2)])\n'
        'for number in (1, 2):\n'
        '    last = number\n'
        'one, two = 1, 2\n'
        "odd = {'a b': 1, 'from': 2}\n"
        "limits = [float('inf'), 0.5]\n"
    )
    (tmp_path / 'mine.py').write_text(
        "_base_ = ['./base.py']\n"
        'part = dict(\n'
        '    c=3)\n'
        'model = dict(\n'
        '    deep=dict(b=part),\n'
        '    old=dict(_delete_=True,\n'
        '             z=3), more=(dict(k=1), dict(\n'
        '                 k=2)), same=_base_.odd)\n'
        'copied = model\n'
    )
    return tmp_path


def test_origins_by_hand(files):
    origin = find_origins(files / 'mine.py', ['model.deep.a'], files)
    expected = {
        'width': 'base.py:1',
        'model.type': 'base.py:2',
        'model.size': 'base.py:3',
        'model.deep.a': '--cfg-options',
        'model.deep.b.c': 'mine.py:3',
        'model.old.z': 'mine.py:7',
        'model.old.x': 'mine.py:6',  # deleted there
        'model.steps.1.n': 'base.py:5',
        'last': 'base.py:7',
        'one': 'base.py:8',
        'two': 'base.py:8',
        'odd.a b': 'base.py:9',
        'model.more.1.k': 'mine.py:8',
        'model.same.from': 'mine.py:8',
        'copied.deep.b.c': 'mine.py:3',
    }
    assert {key: origin(key) for key in expected} == expected


def test_what_is_hard_to_write_can_be_read_again(files):
    cfg = Config.fromfile(files / 'mine.py').to_dict()
    (files / 'printed.py').write_text(render(cfg, find_origins(files / 'mine.py', (), files)))
    again = Config.fromfile(files / 'printed.py').to_dict()
    assert again == cfg
    assert again['limits'][0] == float('inf')
    assert isinstance(again['model']['more'], tuple)


def test_the_last_assignment_counts():
    assert settings_of('a = dict(b=1)\na = 5\n')['a'].line == 2


def test_a_part():
    cfg = dict(a=dict(b=dict(c=1), d=2), e=3)
    assert select(cfg, 'a.b') == dict(a=dict(b=dict(c=1)))
    with pytest.raises(ValueError, match=r"no 'x' at this position of --key; available: b, d"):
        select(cfg, 'a.x')


def test_the_tool(print_config, tmp_path):
    out = tmp_path / 'out.py'
    options = ['--cfg-options', 'model.query_weight=0.5']
    assert print_config('configs/adclr/vitb16_in1k.py', '--out', out, *options) == ''
    assert Config.fromfile(out).model.query_weight == 0.5
    part = print_config('configs/adclr/vitb16_in1k.py', '--key', 'model', *options)
    assert part.replace(' ', '') in out.read_text().replace(' ', '')  # the columns of comments differ
    lines = [line.split() for line in part.splitlines()]
    assert ['query_weight=0.5,', '#', '--cfg-options'] in lines
    assert ["arch='vit_base_patch16_224',", '#', 'configs/adclr/vitb16_in1k.py:10'] in lines
    assert ["query_keys='image',", '#', 'configs/adclr/vits16_in1k.py:22'] in lines


def test_the_tool_names_what_is_wrong(print_config):
    with pytest.raises(SystemExit, match=r"error: the config has no 'bakbone' at this position of --key; available: type, "):
        print_config('configs/adclr/vitb16_in1k.py', '--key', 'model.bakbone')
