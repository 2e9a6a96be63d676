"""The model index is about this tree: files, sizes and schedules are those of the configs, numbers those they quote."""

import re

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import init_default_scope
from places import REPO
from torch.utils.flop_counter import FlopCounterMode

import mmadclr.engine
import mmadclr.models  # noqa: F401
from mmadclr.registry import MODELS

# What reproduces nobody's number.
NOT_INDEXED = (
    'configs/_base_/',
    'configs/adapt/',
    'configs/adclr/ablations/',
    'configs/adclr/vits16_folder.py',
    'configs/benchmarks/demo/',
    'configs/benchmarks/small/',
    'configs/demo/',
    'configs/mmpretrain/',
)
WIDTHS = {384: 'ViT-S/16', 768: 'ViT-B/16'}
SIDE = {'ade20k': 512}  # of the image whose multiply-adds are counted; 224 elsewhere

INDEX = yaml.safe_load((REPO / 'model-index.yml').read_text())
METAFILES = {path: yaml.safe_load((REPO / path).read_text()) for path in INDEX['Import']}
ENTRIES = {model['Config']: (path, model) for path, metafile in METAFILES.items() for model in metafile['Models']}
RESULTS = [(config, result) for config, (_, model) in ENTRIES.items() for result in model.get('Results', ())]


def is_indexed(config):
    return not config.startswith(NOT_INDEXED) and not config.endswith('_small.py')


def needs_dense(configs):
    return [pytest.param(c, marks=pytest.mark.dense) if 'benchmarks' in c else c for c in configs]


@pytest.fixture(autouse=True)
def _scope():
    yield
    init_default_scope('mmadclr')


def load(config):
    cfg = Config.fromfile(REPO / config)
    init_default_scope(cfg.get('default_scope', 'mmadclr'))
    return cfg


def test_every_config_is_in_the_index_or_reproduces_nothing():
    configs = {str(path.relative_to(REPO)) for path in (REPO / 'configs').rglob('*.py')}
    assert {config for config in configs if is_indexed(config)} == ENTRIES.keys()
    metafiles = {str(path.relative_to(REPO)) for path in (REPO / 'configs').rglob('metafile.yml')}
    assert metafiles == METAFILES.keys()


def test_names_and_files():
    models = [model for metafile in METAFILES.values() for model in metafile['Models']]
    assert len({model['Name'] for model in models}) == len(models) == len(ENTRIES)
    for path, metafile in METAFILES.items():
        collections = {collection['Name'] for collection in metafile['Collections']}
        assert {model['In Collection'] for model in metafile['Models']} == collections
        for collection in metafile['Collections']:
            assert (REPO / collection['README']).is_file()
        for model in metafile['Models']:
            assert (REPO / model['Config']).parent == (REPO / path).parent
            assert model['Weights'] is None


@pytest.mark.dense
def test_the_reader_of_openmmlab_understands_it():
    from modelindex.load_model_index import load as load_index

    index = load_index(str(REPO / 'model-index.yml'))
    index.build_models_with_collections()
    assert {model.config for model in index.models} == ENTRIES.keys()
    assert all(model.metadata.parameters for model in index.models)


@pytest.mark.parametrize('config', ENTRIES)
def test_schedules_are_those_of_the_configs(config):
    cfg, metadata = load(config), ENTRIES[config][1]['Metadata']
    assert metadata.get('Epochs') == cfg.train_cfg.get('max_epochs')
    assert metadata.get('Iterations') == cfg.train_cfg.get('max_iters')
    gpus = int(re.search(rf'dist_train.sh {config} (\d+)', (REPO / config).read_text())[1])
    assert metadata['Training Resources'] == f'{gpus} GPUs'
    assert metadata['Batch Size'] == gpus * cfg.train_dataloader.batch_size * cfg.optim_wrapper.get('accumulative_counts', 1)


@pytest.mark.long
@pytest.mark.parametrize('config', needs_dense(ENTRIES))
def test_sizes_are_those_of_the_models(config):
    cfg, metadata = load(config), ENTRIES[config][1]['Metadata']
    with torch.device('meta'):
        model = MODELS.build(cfg.model).eval()
    pretraining = 'benchmarks' not in config
    model = model.student['backbone'] if pretraining else model
    assert metadata['Parameters'] == sum(parameter.numel() for parameter in model.parameters())
    width = (model if pretraining else model.backbone).embed_dim
    assert metadata['Architecture'] == WIDTHS[width]
    if '/coco/' in config:
        assert 'FLOPs' not in metadata
        return
    side = SIDE.get(config.split('/')[2], 224)
    image = torch.empty(1, 3, side, side, device='meta')
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image) if pretraining else model(image, mode='tensor')
    assert metadata['FLOPs'] == counter.get_total_flops() // 2


@pytest.mark.parametrize(('config', 'result'), RESULTS)
def test_numbers_are_marked_as_those_of_others_and_quoted_by_the_config(config, result):
    assert result['Reproduced here'] is False
    assert re.search(r'paper \(arXiv|README of', result['Reported by'])
    assert 'Pretrained by' in result or 'benchmarks' not in config
    (number,) = result['Metrics'].values()
    quoted = (REPO / config).read_text().split('"""')[1]
    assert re.search(rf'(?<![\d.]){number}(?![\d])', quoted)


def test_numbers_of_the_pages_are_those_of_the_index():
    """Rows of its tables that begin with a config of ours: every number with one decimal is one of that config."""
    indexed = {}
    for config, result in RESULTS:
        indexed.setdefault(config, set()).update(f'{number:.1f}' for number in result['Metrics'].values())
    text = ''.join((REPO / 'docs' / page).read_text() for page in ('evaluation.md', 'dense_tasks.md'))
    rows = re.findall(r'^\| `((?:coco|ade20k|classification)/[^`]+\.py)` \|[^|]*\|([^|]*)\|', text, re.M)
    assert len(rows) > 10
    for name, text in rows:
        configs = [f'configs/benchmarks/{c}' for c in expanded(name)]
        found = set(re.findall(r'\d+\.\d(?! above)', text))
        assert found <= set().union(*(indexed.get(config, set()) for config in configs)), name
        assert all(config in ENTRIES for config in configs), name


def expanded(name):
    """``a{b,c}d`` -> ``abd``, ``acd``."""
    choice = re.search(r'\{([^}]*)\}', name)
    if not choice:
        return [name]
    return [n for part in choice[1].split(',') for n in expanded(name.replace(choice[0], part, 1))]
