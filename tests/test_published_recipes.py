"""Every config that is called published holds what its source says: ``tests/data/published_recipes.csv``.

Columns: ``config`` below ``configs/``; ``key``, a path into the config with all its bases, where arguments that it leaves
out are the defaults of the classes it names and members of lists go by number or type, or one of ``DERIVED`` and ``BUILT``;
``value``, the published one, and ``source``, a public repository and its file; ``ours`` where we depart from it, with what
the config has to say about that. ``results.`` are numbers of the metafiles.
"""

from __future__ import annotations

import csv
import inspect
import json
import re
from functools import cache, lru_cache

import pytest
import yaml
from mmengine import registry as root
from mmengine.config import Config
from mmengine.registry import init_default_scope
from places import REPO
from torch import nn

import mmadclr.engine
import mmadclr.models  # noqa: F401

TABLE = REPO / 'tests' / 'data' / 'published_recipes.csv'
METAFILES = sorted((REPO / 'configs').rglob('metafile.yml'))
INDEXED = {model['Config']: model for path in METAFILES for model in yaml.safe_load(path.read_text())['Models']}
# In the index, because they complete a series, but nobody published them; their docstrings say so.
UNPUBLISHED = {
    'benchmarks/coco/mask-rcnn_vitb16_fpn_1x': 'This combination has not been published',
    'pqcl/vitb16_in1k': "The authors' code has settings only for ViT-S",
    'selfpatch/vitb16_in1k': 'The authors published no ViT-B',
}
REGISTRIES = (
    root.MODELS,
    root.HOOKS,
    root.OPTIMIZERS,
    root.OPTIM_WRAPPERS,
    root.PARAM_SCHEDULERS,
    root.DATA_SAMPLERS,
    root.TRANSFORMS,
    root.DATASETS,
)


@pytest.fixture(autouse=True)
def _scope():
    yield
    init_default_scope('mmadclr')


def read_table(path=TABLE) -> dict[str, dict[str, dict[str, str]]]:
    """Rows by config and key."""
    rows: dict[str, dict[str, dict[str, str]]] = {}
    with path.open(newline='', encoding='utf-8') as file:
        for row in csv.DictReader(file):
            assert row['key'] not in rows.setdefault(row['config'], {}), f'{row["config"]}: {row["key"]} twice'
            rows[row['config']][row['key']] = row
    return rows


RECIPES = read_table()


def path_of(config: str):
    return REPO / 'configs' / f'{config}.py'


@cache
def load(config: str) -> Config:
    return Config.fromfile(path_of(config))


def words(config: str) -> str:
    """All that a config and its bases of ours say, on one line."""
    text = path_of(config).read_text()
    bases = re.findall(r"'((?:\.\.?/)+[^']+\.py)'", text.split('_base_', 1)[-1].split(']')[0])
    texts = [
        text,
        *(words(str((path_of(config).parent / base).resolve().relative_to(REPO / 'configs'))[:-3]) for base in bases),
    ]
    return ' '.join(' '.join(texts).replace('#', ' ').split())


# --- looking a key up -----------------------------------------------------------------------------------------------------


def lookup(config: str, key: str):
    """The value of a key.

    Raises:
        KeyError: There is no such key: neither in the config nor among the arguments of what it names.
    """
    cfg = load(config)
    if key.startswith('results.'):
        return results(config)[key.removeprefix('results.')][0]
    if key in DERIVED:
        return DERIVED[key](cfg, config)
    if key in BUILT:
        return BUILT[key](backbone(config))
    node = cfg._cfg_dict
    for part in key.split('.'):
        node = member(node, part, key, cfg.default_scope)
    return node


def member(node, part: str, key: str, scope: str):
    if isinstance(node, (list, tuple)):
        if part.isdigit() and int(part) < len(node):
            return node[int(part)]
        found = [entry for entry in node if isinstance(entry, dict) and entry.get('type') == part]
        if len(found) != 1:
            raise KeyError(f'{key}: {len(found)} entries of type {part!r}')
        return found[0]
    if isinstance(node, dict) and part in node:
        return node[part]
    if isinstance(node, dict) and 'type' in node:
        return default_of(component(node['type'], scope), part, key)
    raise KeyError(f'{key}: no {part!r}')


def component(name: str, scope: str) -> type:
    init_default_scope(scope)
    for registry in REGISTRIES:
        with registry.switch_scope_and_registry(None) as scoped:
            found = scoped.get(name)
        if found is not None:
            return found
    raise KeyError(f'{name!r} is nothing registered')


def default_of(kind: type, argument: str, key: str):
    """Default of an argument of a class, or of the classes to which it hands on what it does not know."""
    for parent in inspect.getmro(kind):
        parameters = inspect.signature(parent.__init__).parameters if '__init__' in vars(parent) else {}
        if argument in parameters and parameters[argument].default is not inspect.Parameter.empty:
            return parameters[argument].default
        if parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    raise KeyError(f'{key}: not in the config, and {kind.__name__} has no argument {argument!r} with a default')


@cache
def results(config: str) -> dict[str, tuple[float, str]]:
    """Numbers of the metafile and whose they are, by task, weights and metric."""
    found = {}
    for result in INDEXED[f'configs/{config}.py'].get('Results') or ():
        ((name, value),) = result['Metrics'].items()
        parts = (result['Task'], result.get('Pretrained by'), name)
        found['.'.join(part for part in parts if part)] = (value, result['Reported by'])
    return found


@lru_cache(maxsize=1)
def backbone(config: str):
    cfg = load(config)
    init_default_scope(cfg.default_scope)
    with pytest.MonkeyPatch.context() as patch:  # seconds of random numbers that nobody looks at
        patch.setattr('mmadclr.models.backbones.query_vit.init_linear_layers', lambda *_: None)
        with root.MODELS.switch_scope_and_registry(None) as models:
            return models.build(cfg.model.backbone)


def total_batch(cfg: Config, config: str) -> int:
    """On as many GPUs as the command of the docstring has."""
    gpus = int(re.search(rf'dist_train.sh configs/{config}.py (\d+)', path_of(config).read_text())[1])
    return gpus * cfg.train_dataloader.batch_size * cfg.optim_wrapper.get('accumulative_counts', 1)


def peak(cfg: Config, config: str) -> float:
    return cfg.optim_wrapper.optimizer.lr * total_batch(cfg, config) / cfg.auto_scale_lr.base_batch_size


def floor(cfg: Config, config: str) -> float:
    """Absolute learning rate at the end."""
    (cosine,) = (each for each in cfg.param_scheduler if each.type == 'CosineAnnealingLR')
    return cosine.eta_min if 'eta_min' in cosine else cosine.eta_min_ratio * peak(cfg, config)


def warmup_from(cfg: Config, config: str) -> float:
    return next(each for each in cfg.param_scheduler if each.type == 'LinearLR').start_factor * peak(cfg, config)


def last_drop_path(network) -> float:
    path = network.blocks[-1].drop_path1
    return 1 - path.keep.item() if hasattr(path, 'keep') else 0.0


DERIVED = {
    'total_batch': total_batch,
    'warmup_from': warmup_from,
    'floor': floor,
    'optim_wrapper.constructor': lambda cfg, _: cfg.optim_wrapper.get('constructor'),
    'no_decay': lambda cfg, _: (cfg.optim_wrapper.get('paramwise_cfg') or {}).get('no_decay', ()),
}
# Of the backbone, as it is built.
BUILT = {
    'built.width': lambda network: network.embed_dim,
    'built.depth': lambda network: len(network.blocks),
    'built.heads': lambda network: network.blocks[0].attn.num_heads,
    'built.patch': lambda network: network.patch_size,
    'built.grid': lambda network: network.patch_embed.grid_size,  # that positions are stored for
    'built.drop_path': last_drop_path,
    'built.taps': lambda network: network.out_indices,
    'built.norm_of_taps': lambda network: isinstance(network.norm, nn.LayerNorm),
    'built.trained': lambda network: any(parameter.requires_grad for parameter in network.parameters()),
}


def plain(value):
    """As JSON has it."""
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return {key: plain(entry) for key, entry in value.items()} if isinstance(value, dict) else value


def same(found, expected) -> bool:
    found = plain(found)
    if isinstance(expected, list) and isinstance(found, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, bool) or isinstance(found, bool) or not isinstance(expected, (int, float)):
        return type(found) is type(expected) and found == expected
    return found == pytest.approx(expected, rel=1e-6, abs=0)


def differences(config: str, rows: dict[str, dict[str, str]]) -> list[str]:
    """What of a config is not as its rows say."""
    found = []
    for key, row in rows.items():
        try:
            value = lookup(config, key)
        except KeyError as error:
            found.append(f'{key}: there is no such key ({error})')
            continue
        if not same(value, json.loads(row['ours'] or row['value'])):
            found.append(f'{key}: {value!r}, and the table has {row["ours"] or row["value"]} ({row["source"]})')
    return found


# --- the table ------------------------------------------------------------------------------------------------------------


def names(configs):
    return [pytest.param(c, marks=pytest.mark.dense) if 'benchmarks' in c else c for c in sorted(configs)]


def test_every_published_config_has_rows_and_no_other():
    published = {config.removeprefix('configs/').removesuffix('.py') for config in INDEXED}
    assert published - UNPUBLISHED.keys() == RECIPES.keys()
    for config, said in UNPUBLISHED.items():
        assert said in words(config)


@pytest.mark.parametrize('config', names(RECIPES))
def test_config_holds_what_is_published(config):
    assert not differences(config, RECIPES[config])


@pytest.mark.parametrize('config', sorted(RECIPES))
def test_rows_say_all_that_decides_a_run(config):
    keys = RECIPES[config].keys()
    assert {'total_batch', 'optim_wrapper.optimizer.type', 'optim_wrapper.precision'} <= keys
    assert {'built.width', 'built.depth', 'built.heads', 'built.patch'} <= keys
    assert 'train_cfg.max_epochs' in keys or 'train_cfg.max_iters' in keys
    assert {'optim_wrapper.optimizer.lr', 'model.head.learning_rates'} & keys
    assert {'default_hooks.schedule.weight_decay', 'optim_wrapper.optimizer.weight_decay'} & keys
    if 'benchmarks/classification/linear' not in config:
        assert 'built.drop_path' in keys
        assert {'built.grid', 'default_hooks.schedule.warmup_epochs', 'param_scheduler.LinearLR.end'} & keys
    assert {'auto_scale_lr.base_batch_size', 'auto_scale_lr.enable'} <= keys


@pytest.mark.parametrize('config', sorted(RECIPES))
def test_numbers_of_the_metafile_are_in_the_table_with_their_source(config):
    rows = {key.removeprefix('results.'): row for key, row in RECIPES[config].items() if key.startswith('results.')}
    assert {key: source for key, (_, source) in results(config).items()} == {key: row['source'] for key, row in rows.items()}


def test_sources_are_public_and_departures_are_said():
    for config, rows in RECIPES.items():
        for key, row in rows.items():
            assert re.match(r'[\w-]+/[\w.-]+ [\w./-]+|README of|\w+ paper \(arXiv', row['source']), row
            assert bool(row['ours']) == bool(row['said']), row
            if row['ours']:
                assert json.loads(row['ours']) != json.loads(row['value']), row
                assert row['said'] in words(config), f'{config} does not say {row["said"]!r} about {key}'


# --- the check itself -----------------------------------------------------------------------------------------------------


def row(value, ours=''):
    return dict(value=json.dumps(value), ours=ours, source='somebody/something file.py')


def test_what_differs_is_found():
    config = 'dino/vits16_in1k'
    right = {'train_cfg.max_epochs': row(800), 'model.backbone.query_keys': row('image'), 'built.heads': row(6)}
    assert differences(config, right) == []
    assert differences(config, {'train_cfg.max_epochs': row(300, ours='800')}) == []
    for key, value in (
        ('train_cfg.max_epochs', 801),
        ('train_cfg.max_epochs', True),
        ('optim_wrapper.optimizer.lr', 5.001e-4),
        ('optim_wrapper.max_norm', 0),
        ('model.head.norm_last_layer', 0),
        ('default_hooks.schedule.momentum', [0.996]),
        ('default_hooks.schedule.teacher_temp', 0.04),
        ('built.heads', 8),
    ):
        (said,) = differences(config, {key: row(value)})
        assert said.startswith(f'{key}: '), said
        assert 'the table has' in said


@pytest.mark.parametrize(
    'key',
    [
        'train_cfg.epochs',
        'model.backbone.drop_path',
        'model.backbone.arch.depth',
        'optim_wrapper.optimizer.learning_rate',
        'default_hooks.schedule.warmup_epoch',
        'default_hooks.schedule.weight_decay.2',
        'train_dataloader.dataset.transform.mask.ratio',
        'model.data_preprocessor.size',
        'lr',
        'built.grids',
        'results.k-NN Classification.Top 5 Accuracy',
    ],
)
def test_a_row_about_a_key_that_does_not_exist_is_found(key):
    (said,) = differences('dino/vits16_in1k', {key: row(1)})
    assert said.startswith(f'{key}: there is no such key'), said
