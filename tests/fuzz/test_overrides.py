"""What people type behind ``--cfg-options``: a config with it, or one line that names it."""

from __future__ import annotations

import argparse
import contextlib
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mmengine.config import Config, DictAction
from places import REPO
from strategies import Refusal, outcome, places

from mmadclr.cli.arguments import add_config_arguments
from mmadclr.config.loading import load_config
from mmadclr.config.overrides import parse_value
from mmadclr.names import printable

CONFIG = REPO / 'configs' / 'demo' / 'adclr_vittiny_shapes.py'
SOUND = Config.fromfile(CONFIG).to_dict()
KEYS = sorted({'.'.join(map(str, path)) for path in places(SOUND) if path})
PARTS = sorted({part for key in KEYS for part in key.split('.')})
GOOD = ['train_cfg.max_epochs=3', 'optim_wrapper.optimizer.lr=1e-3', 'custom_hooks.0.priority=LOW', 'randomness.seed=1']


@st.composite
def keys(draw):
    """A key of the config, whole or in part, misspelled, with further parts, or any text."""
    key = draw(st.sampled_from(KEYS) | st.sampled_from(['data_root', 'pretrained', 'work_dir', 'resume', 'load_from']))
    kind = draw(st.integers(0, 6))
    if kind == 1:
        place = draw(st.integers(0, len(key)))
        key = key[:place] + draw(st.sampled_from(['', '.', 'x', '_', ' '])) + key[place + 1 :]
    elif kind == 2:
        more = st.sampled_from([*PARTS, '0', '-1', '99', 'type', '_delete_', '__class__', 'items', 'keys', 'x', ''])
        key = f'{key}.{draw(more)}'
    elif kind == 3:
        key = key.rpartition('.')[0]
    elif kind == 4:
        key = '.'.join(draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=3)))
    elif kind == 5:
        key = draw(st.text(max_size=8))
    return key


ODD = ['', '1', '-1', '1e-3', 'nan', 'inf', 'true', 'None', 'null', '0x10', '1_000', '9' * 400, "'a b'", '"x"', 'a b', '~']
ODD += ['[1,2]', '(1,2)', '[', ']', '(', '[)', '[[]', '1,2', ',', ',,', '[a,(b,c)]', '()', '{}', "{'a':1}", 'dict(type="x")']
ODD += [
    'a=b',
    '=',
    'AdamW',
    'mmdet.ResNet',
    'no.such.Class',
    'x' * 300,
    '\udce9.png',
    '/a b/c',
    '{{_base_.model}}',
    '${HOME}',
]
ODD += ['${HOME}', '[' * 99, '[' * 999 + ']' * 999, '1' * 5000]
VALUES = (
    st.sampled_from(ODD)
    | st.integers().map(str)
    | st.floats().map(repr)
    | st.text(max_size=10)
    | st.text('[](),\'" 1a', max_size=10)
)
OPTIONS = st.lists(
    st.builds('{}={}'.format, keys(), VALUES) | st.sampled_from(GOOD) | keys() | st.text(max_size=6), min_size=1, max_size=3
)


def typed(options, config=CONFIG):
    """The config that a tool would get for these arguments, or the line it ends with."""
    parser = argparse.ArgumentParser(prog='tool')
    add_config_arguments(parser)
    usage = io.StringIO()
    try:
        with contextlib.redirect_stderr(usage):
            args = parser.parse_args([str(config), '--cfg-options', *options])
    except SystemExit:
        line = usage.getvalue().splitlines()[-1]
        assert line.startswith('tool: error: ')
        return Refusal(line)
    return outcome(lambda: load_config(args), lines=True)


def stated(option):
    """Key and value of a sound option."""
    key, _, value = option.partition('=')
    return key.split('.'), {'3': 3, '1e-3': 1e-3, '1': 1}.get(value, value)


@example(['train_cfg.max_epochs'])
@example(['model.no_such_part.x=1', 'model.no_such_part=2'])
@example(['train_cfg.max_epochs=[1'])
@example(['custom_hooks.99.type=x'])
@example(['custom_hooks.type=x'])
@example(['train_cfg.max_epochs.x=1'])
@example(['val_cfg=5', 'val_dataloader=[1,2]'])
@example(['default_scope=5'])
@example(['data_root='])
@example(['model.backbone.type='])
@example(['model.backbone.type=.x'])
@given(OPTIONS.filter(lambda options: not any(option.startswith('-') for option in options)))
def test_what_people_type(options):
    end = typed(options)
    if isinstance(end, Refusal):
        keys = [option.partition('=')[0] for option in options]
        keys += ['init_cfg'] * ('pretrained' in keys)  # what it is short for
        assert any(printable(part) in end for key in keys for part in [key, *key.split('.')]), end
        return
    for option in set(options) & set(GOOD):
        if any(other != option and stated(option)[0][0] == other.partition('=')[0].split('.')[0] for other in options):
            continue
        node, (path, value) = end, stated(option)
        for key in path:
            node = node[int(key) if key.isdigit() else key]
        assert node == value


@pytest.mark.parametrize('value', ['/big disk/images', "it's", 'a  b', '/x=y', '0x10', 'é', '#1', '~/data'])
def test_texts_are_taken_as_they_are_typed(value):
    cfg = typed([f'data_root={value}'])
    assert cfg.train_dataloader.dataset.data_root == value
    cfg = typed([f'train_dataloader.dataset.data_root={value}'])
    assert cfg.train_dataloader.dataset.data_root == value


LEAVES = st.sampled_from(['1', '-2', '1e-3', 'a', 'None', 'true', "'b'", '/c/d.e'])
NESTED = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f'[{",".join(parts)}]')
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: f'({",".join(parts)},)')
    ),
    max_leaves=8,
)


@given(NESTED | st.lists(LEAVES, min_size=2, max_size=4).map(','.join))
def test_values_are_those_of_mmengine(text):
    assert repr(parse_value(text)) == repr(DictAction._parse_iterable(text))
