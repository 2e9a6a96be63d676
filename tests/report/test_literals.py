"""Configs of work dirs, read without being executed, equal to what mmengine reads."""

import pytest
from mmengine.config import Config

from mmadclr.report.literals import leaves, nested, read_literals
from mmadclr.shipped import shipped_configs

NAMES = [name for name in shipped_configs() if name.startswith(('adclr/', 'demo/', 'ibot/'))]


def as_lists(node):
    if isinstance(node, dict):
        return {key: as_lists(value) for key, value in node.items()}
    return [as_lists(item) for item in node] if isinstance(node, (list, tuple)) else node


@pytest.mark.parametrize('name', NAMES)
def test_a_dumped_config_is_read_as_mmengine_reads_it(name):
    cfg = Config.fromfile(shipped_configs()[name])
    assert read_literals(cfg.pretty_text) == as_lists(cfg.to_dict())


def test_nothing_is_executed(tmp_path):
    text = f'a = dict(b=open({str(tmp_path / "made")!r}, "w"), c=-1.5)\nfor x in (): pass\n{{}}["a"] = 3'
    found = read_literals(text)
    assert found['a']['c'] == -1.5
    assert found['a']['b'].startswith('open(')
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match='line 2 is not Python'):
        read_literals('a = 1\nb = = 2')


def test_leaves_and_nested_values():
    config = {'a': {'b': {'c': [1, 2]}, 'd': None}, 'e': 'x'}
    assert leaves(config) == {'a.b.c': [1, 2], 'a.d': None, 'e': 'x'}
    assert nested(config, 'a', 'b', 'c') == [1, 2]
    assert nested(config, 'a', 'b', 'c', 'd') is nested(config, 'z', 'y') is None
