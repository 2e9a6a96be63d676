"""The notebooks of the docs: what they name exists, they are stored without outputs, and they run at toy size on a CPU."""

import ast
import importlib
import json
import os
import re
import shlex
import sys
from argparse import Namespace

import pytest
import torch
from mmengine.registry import init_default_scope
from places import REPO

from mmadclr.cli.parsers import command_parser
from mmadclr.config.loading import load_config
from mmadclr.models.backbones.feature_vit import FeatureViT

FOLDER = REPO / 'docs' / 'notebooks'
NOTEBOOKS = sorted(path.name for path in FOLDER.glob('*.ipynb'))
VARIABLE = re.compile(r'\$(?:\{(\w+)\}|(\w+))')
SET_BY = re.compile(r"os\.environ\['(\w+)'\] =")
LOADER = 'train_dataloader.num_workers=0 train_dataloader.persistent_workers=False train_dataloader.batch_size=4'
SCHEDULE = (
    'default_hooks.schedule.warmup_epochs=1 default_hooks.schedule.teacher_temp_warmup_epochs=1 '
    'default_hooks.schedule.freeze_last_layer_epochs=0'
)
TINY = 'model.backbone.arch=vit_tiny_patch16_224 model.head.hidden_dim=32 model.head.out_dim=32'
DRAWN = '{0}.dataset.num_train={1} {0}.dataset.num_val={2}'


def cells(name, kind='code'):
    """Sources of the cells of a kind."""
    found = json.loads((FOLDER / name).read_text())['cells']
    return [''.join(cell['source']) for cell in found if cell['cell_type'] == kind]


def python(name):
    """The code that is not of the shell, without magics of lines."""
    sources = [text for text in cells(name) if not text.startswith('%%')]
    return ast.parse('\n'.join(re.sub(r'^%.*$', '', text, flags=re.MULTILINE) for text in sources))


def shell(name):
    return [text for text in cells(name) if text.startswith('%%bash')]


def settings(name):
    """The settings of the first cell, as they are where there is no GPU."""
    scope = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'environ', {})
        patch.setenv('PATH', '')
        exec(cells(name)[0], scope)
        return {key: os.environ[key] for key in scope['settings']}


def commands(name):
    """Arguments of every command, with the settings in place of variables."""
    values = settings(name) | dict(CHECKPOINT='a.pth', DETECTOR='b.pth', IMAGES='images')
    for cell in shell(name):
        text = VARIABLE.sub(lambda found: values[found[1] or found[2]], cell.replace('\\\n', ' '))
        yield from (shlex.split(line) for line in text.splitlines() if line.startswith('mmadclr '))


@pytest.fixture
def _scope():
    yield
    init_default_scope('mmadclr')


def test_there_are_two():
    assert NOTEBOOKS == ['mask_rcnn.ipynb', 'pretrain_or_adapt.ipynb']


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_stored_without_outputs_and_with_few_cells(name):
    content = json.loads((FOLDER / name).read_text())
    assert all(cell['outputs'] == [] and cell['execution_count'] is None for cell in content['cells'] if 'outputs' in cell)
    assert len([cell for cell in content['cells'] if cell['cell_type'] == 'code']) == len(cells(name)) <= 13
    assert set(content['metadata']) == {'kernelspec', 'language_info', 'accelerator'}
    assert (FOLDER / name).stat().st_size < 20_000
    assert content['cells'][0]['cell_type'] == 'markdown'


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_what_the_code_imports_and_uses_of_ours_exists(name):
    tree, seen = python(name), 0
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith('mmadclr'):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
            seen += 1
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith('mmadclr.'):
            found = importlib.import_module('mmadclr')
            for part in ast.unparse(node).split('.')[1:]:
                found = getattr(found, part)
            seen += 1
    assert seen >= 2


@pytest.mark.dense
@pytest.mark.usefixtures('_scope')
@pytest.mark.parametrize('name', NOTEBOOKS)
def test_commands_configs_and_settings_exist(name):
    used = {found[1] or found[2] for cell in shell(name) for found in VARIABLE.finditer(cell)}
    assert used <= settings(name).keys() | set(SET_BY.findall('\n'.join(cells(name))))
    ran = []
    for _, command, *arguments in commands(name):
        args = command_parser(command, 'mmadclr').parse_args(arguments)
        ran.append(command)
        if 'config' in args:
            load_config(Namespace(config=args.config, work_dir=None, cfg_options=args.cfg_options, data=args.data))
    assert (
        ran
        == {
            'pretrain_or_adapt.ipynb': ['train', 'adapt', 'report'],
            'mask_rcnn.ipynb': ['train', 'train', 'train', 'report', 'test'],
        }[name]
    )


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_settings_are_overridden_by_the_environment(name, monkeypatch):
    monkeypatch.setenv('RUN', 'elsewhere')
    for key in settings(name):
        monkeypatch.setenv(key, os.environ.get(key, ''))
    exec(cells(name)[0], {})
    assert os.environ['RUN'] == 'elsewhere'


@pytest.mark.parametrize('name', NOTEBOOKS)
@pytest.mark.parametrize('source', ['../..', 'git+https://host/mmadclr'])
def test_the_second_cell_installs_only_what_is_not_there(name, source, monkeypatch):
    calls = []
    monkeypatch.setattr('subprocess.run', lambda command, check: calls.append(command[-1]))
    monkeypatch.setenv('SOURCE', source)
    monkeypatch.setenv('PATH', '/bin')
    code = f'import os\n{cells(name)[1]}'
    extra = '[dense]' if name == 'mask_rcnn.ipynb' else ''
    monkeypatch.setattr('importlib.util.find_spec', lambda module: object())
    exec(code, {})
    assert calls == []
    monkeypatch.setattr('importlib.util.find_spec', lambda module: None)
    exec(code, {})
    assert calls == [f'../..{extra}' if source == '../..' else f'mmadclr{extra} @ {source}']
    assert os.environ['PATH'].split(os.pathsep)[0] == os.path.dirname(sys.executable)


# --- execution -------------------------------------------------------------------------------------------------------------


def execute(name, folder, **environment):
    """Runs a notebook in a folder; returns its outputs by cell."""
    for package in ('nbformat', 'nbclient', 'ipykernel'):
        pytest.importorskip(package, reason=f"needs {package}: pip install -e '.[notebooks]'")
    import nbclient
    import nbformat

    book = nbformat.read(FOLDER / name, as_version=4)
    paths = [str(REPO), *filter(None, [os.environ.get('PYTHONPATH')])]
    fixed = dict(PYTHONPATH=os.pathsep.join(paths), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', RUN=str(folder / 'run'))
    client = nbclient.NotebookClient(book, timeout=900, kernel_name='python3', resources={'metadata': {'path': str(folder)}})
    client.execute(env=os.environ | fixed | environment)
    return [cell.outputs for cell in book.cells if cell.cell_type == 'code']


def texts(outputs):
    return ''.join(str(output.get('text', '')) for cell in outputs for output in cell)


def pictures(outputs):
    return sum('image/png' in output.get('data', {}) for cell in outputs for output in cell)


@pytest.mark.long
def test_training_from_random_weights(tmp_path):
    outputs = execute(
        'pretrain_or_adapt.ipynb', tmp_path, DRAWN='12', EPOCHS='1', SIZE='96', OPTIONS=f'{TINY} {LOADER} {SCHEDULE}'
    )
    assert pictures(outputs) == 3
    assert '12 images in ' in texts(outputs)
    assert '12 images, features (12, 192)' in texts(outputs)
    assert 'Features over the run' in (tmp_path / 'run/report.html').read_text()


@pytest.mark.long
def test_adapting_weights(tmp_path):
    arch = dict(embed_dim=64, depth=2, num_heads=1, patch_size=16)
    torch.save(FeatureViT(arch, img_size=32, init='xavier').state_dict(), tmp_path / 'weights.pth')
    outputs = execute(
        'pretrain_or_adapt.ipynb',
        tmp_path,
        DRAWN='24',
        SIZE='96',
        WEIGHTS=str(tmp_path / 'weights.pth'),
        BUDGET='2m',
        ADAPT_OPTIONS='--size 32 --workers 0 --cfg-options train_cfg.max_epochs=2',  # however slow the machine
    )
    assert pictures(outputs) == 3
    assert 'adaptation.md' in texts(outputs)
    assert '24 images, features (24, 64)' in texts(outputs)


@pytest.mark.long
@pytest.mark.dense
def test_mask_rcnn(tmp_path):
    scenes = ' '.join(DRAWN.format(loader, 8, 4) for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'))
    shapes = ' '.join(DRAWN.format(loader, 24, 10) for loader in ('train_dataloader', 'val_dataloader'))
    val = 'val_evaluator.dense.train.max_images=12 val_evaluator.dense.val.max_images=6'
    workers = ' '.join(f'{part}_dataloader.num_workers=0' for part in ('val', 'test'))
    outputs = execute(
        'mask_rcnn.ipynb',
        tmp_path,
        EPOCHS='1',
        PRETRAINING=f'{shapes} {val} {LOADER} {SCHEDULE}',
        ITERATIONS='3',
        DETECTION=f'{scenes} {LOADER} {workers}',
    )
    assert len(re.findall(r'^(?:pretrained|random) +box AP +\d+\.\d   mask AP +\d+\.\d$', texts(outputs), re.MULTILINE)) == 2
    assert pictures(outputs) == 4
    assert '2 runs side by side' in (tmp_path / 'run/detection.html').read_text()
