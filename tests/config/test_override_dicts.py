"""Dicts on the command line, in the forms that people type them."""

import re

import pytest
from mmengine.config import Config

from mmadclr.config.check import ConfigError
from mmadclr.config.overrides import merge, parse_value

SIZES = dict(embed_dim=64, depth=2, mlp_ratio=2.5, name='a', to=None)


@pytest.mark.parametrize(
    'text',
    [
        '{embed_dim:64,depth:2,mlp_ratio:2.5,name:a,to:None}',
        "{'embed_dim': 64, 'depth': 2, 'mlp_ratio': 2.5, 'name': 'a', 'to': None}",
        '{"embed_dim": 64, "depth": 2, "mlp_ratio": 2.5, "name": "a", "to": None,}',
        "dict(embed_dim=64, depth=2, mlp_ratio=2.5, name='a', to=None)",
    ],
)
def test_every_form_is_understood(text):
    assert parse_value(text) == SIZES


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('{}', {}),
        ('dict()', {}),
        ('{a:[1,2],b:(x,),c:{d:1}}', dict(a=[1, 2], b=('x',), c=dict(d=1))),
        ('[{a:1},dict(a=2)]', [dict(a=1), dict(a=2)]),
        ('dict(path=s3://a/b=c)', dict(path='s3://a/b=c')),
        ('{url:http://a:80/b}', dict(url='http://a:80/b')),
        ('{epoch}', '{epoch}'),
        ('epoch_{}.pth', 'epoch_{}.pth'),
        ('{ }', {}),
        ("{a:'x,y'}", dict(a='x,y')),
        ("dict(a='x,[y', b=2)", dict(a='x,[y', b=2)),
        ("{'a': '}', 'b': \"it's, so\"}", dict(a='}', b="it's, so")),
        ("[it's,that's]", ["it's", "that's"]),
        ("['1','x,y']", [1, 'x,y']),
        ('foo(a,b)', 'foo(a,b)'),
        ('1,', [1]),
    ],
)
def test_what_is_no_dict_stays_what_it_was(text, value):
    assert parse_value(text) == value


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{a:1,b}', "'b' in a dict must be KEY:VALUE"),
        ('dict(a=1,2)', "'2' in a dict must be KEY=VALUE"),
        ('{:1}', "':1' in a dict must be KEY:VALUE"),
        ('{{a:1}}', "'{a:1}' in a dict must be KEY:VALUE"),
        ('{a:1,b:[2}', 'unmatched closing bracket }'),
        ('{a:1,b:2', 'missing closing bracket }'),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
        parse_value(text)


def merged(**overrides):
    cfg = Config(dict(model=dict(type='DINO', backbone=dict(type='ViT', arch='small', rate=0.1)), hooks=[dict(type='A')]))
    merge(cfg, {key.replace('__', '.'): value for key, value in overrides.items()})
    return cfg


def test_a_dict_sets_the_keys_of_a_group_and_leaves_the_others():
    backbone = merged(model=dict(backbone=dict(rate=0.2, arch=dict(depth=2)))).model.backbone
    assert backbone == dict(type='ViT', arch=dict(depth=2), rate=0.2)
    assert merged(hooks__0=dict(interval=3)).hooks == [dict(type='A', interval=3)]


def test_a_dict_replaces_a_value_and_adds_what_is_new():
    assert merged(model__backbone__arch=dict(depth=2)).model.backbone.arch == dict(depth=2)
    assert merged(model__head=dict(type='B')).model.head == dict(type='B')
    assert merged(model__backbone__arch={}).model.backbone.arch == {}


@pytest.mark.parametrize(
    'overrides',
    [
        {'model.backbone._delete_': True, 'model.backbone.arch': dict(d=1), 'model.backbone.type': 'B'},
        {'model.backbone': dict(_delete_=True, type='B', arch=dict(d=1))},
        {'model': dict(backbone=dict(_delete_=True, type='B', arch=dict(d=1)))},
    ],
)
def test_what_replaces_a_whole_group_leaves_no_marks(overrides):
    cfg = merged(**overrides)
    assert cfg.model.to_dict() == dict(type='DINO', backbone=dict(type='B', arch=dict(d=1)))


def test_a_dict_for_an_item_that_is_none():
    cfg = Config(dict(sizes=[1, None]))
    for key in ('sizes.0', 'sizes.1'):
        with pytest.raises(ConfigError, match=rf'{key}: sizes is a list and this item (1|None): replace the whole list'):
            merge(cfg, {key: dict(a=1)})


def test_messages_have_no_marks():
    for key, value in (('hooks', dict(type='X')), ('model.backbone', {})):
        with pytest.raises(ConfigError) as error:
            merged(**{key: value})
        assert '_delete_' not in str(error.value)


def test_a_key_and_a_dict_that_has_it_contradict_each_other():
    with pytest.raises(ConfigError, match=r'model\.backbone and model\.backbone\.arch\.depth: one is a part of the other'):
        merged(model__backbone=None, model__backbone__arch__depth=3)
