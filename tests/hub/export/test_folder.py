"""Folders: what they say, and that a wrong one never gets its name."""

import ast
import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from backbones import build_backbone
from places import GOLDEN_CHECKPOINTS, REPO
from safetensors.torch import load_file, save_file

from mmadclr.hub.export import FORMATS, CardText, export_backbone
from mmadclr.hub.export.formats import WEIGHTS
from mmadclr.hub.export.origin import data_root
from mmadclr.hub.export.timm_folder import TimmFolder
from mmadclr.hub.export.verification import compare
from mmadclr.hub.opening import open_backbone

EVALUATION = {
    'k-NN': {'top1_k20': 63.61},
    'note': 'a|b',
    'shots': None,
    'learning_rates': [{'lr': 0.1}],
    'inputs': {'train': '/home/me/images'},
}
CONFIG = "a = 1\ntrain_dataloader = dict(batch_size=2, dataset=dict(type='ImageDataset', data_root='data/photos'))\n"
# Runs the snippets of model cards where mmadclr cannot be imported.
ALONE = """
import sys
sys.modules['mmadclr'] = None
import torch
torch.set_grad_enabled(False)
for to in sys.argv[1:]:
    images = torch.load('images.pt')
    space = {'images': images.numpy() if to == 'onnx' else images}
    exec(open(f'{to}/README.md').read().split('```python\\n')[1].split('```')[0], space)
    tokens = space.get('tokens', space.get('patches'))
    features = space['cls'] if 'cls' in space else tokens[:, 0], tokens[:, -1]
    torch.save([torch.as_tensor(part) for part in features], f'{to}.pt')
assert not any(name.startswith('mmadclr.') for name in sys.modules)
"""


@pytest.mark.long
def test_snippets_of_the_cards_run_without_this_package(dinov2_folders):
    root, _ = dinov2_folders
    model, images = build_backbone('dinov2'), torch.randn(2, 3, 32, 32)
    torch.save(images, root / 'images.pt')
    (root / 'alone.py').write_text(ALONE)
    done = subprocess.run([sys.executable, 'alone.py', *FORMATS], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for to in FORMATS:
        cls, last_patch = torch.load(root / f'{to}.pt')
        torch.testing.assert_close(cls, model(images).cls, rtol=0, atol=1e-5)
        torch.testing.assert_close(last_patch, model(images).patches[:, -1], rtol=0, atol=1e-5)


def test_the_card(checkpoint, tmp_path):
    file = checkpoint(build_backbone(), method='ADCLR', epoch=7, cfg=CONFIG)
    (tmp_path / 'knn.json').write_text(json.dumps(EVALUATION))
    text = CardText('my-vit', license='cc-by-4.0', evaluations=[tmp_path / 'knn.json'])
    comparisons = export_backbone(file, tmp_path / 'out', 'timm', text=text)
    card = (tmp_path / 'out' / 'README.md').read_text()
    with open(file, 'rb') as content:
        digest = hashlib.sha256(content.read()).hexdigest()
    parameters = sum(parameter.numel() for parameter in build_backbone().parameters())
    for line in (
        'license: "cc-by-4.0"',
        '# my-vit',
        '| method | ADCLR |',
        '| data | data/photos |',
        '| epochs | 7 |',
        '| image size | 32 x 32 |',
        f'| parameters | {parameters:,} |',
        f'| source | `ours.pth` (teacher, if it has both), sha256 `{digest}` |',
        f'| 32 x 32 | {comparisons[0].difference:.1e} | yes |',
        '| knn.json | k-NN/top1_k20 | 63.61 |',
        '| knn.json | note | a\\|b |',
        'mean 0.5, 0.4, 0.3 and standard deviation 0.2, 0.25, 0.3',
        'resize the short side to 37 (bicubic) and take the 32 x 32 center crop',
    ):
        assert line in card
    assert str(tmp_path) not in card
    assert all(word not in card for word in ('shots', 'learning_rates', 'inputs', '/home/me'))


def test_what_the_file_does_not_tell_is_said(tmp_path):
    export_backbone(GOLDEN_CHECKPOINTS / 'dino_backbone.pth', tmp_path / 'out', 'safetensors', num_heads=3)
    card = (tmp_path / 'out' / 'README.md').read_text()
    for what in ('method', 'data', 'epochs'):
        assert f'| {what} | not recorded in the file |' in card
    assert '## Evaluation' not in card


def test_the_text_of_a_config_is_parsed_and_not_run():
    assert data_root(CONFIG) == 'data/photos'
    for text in ('train_dataloader = 3', "train_dataloader = open('x')", 'train_dataloader = dict(', '', 'a.b = 1'):
        assert data_root(text) is None


def test_teacher_or_student(checkpoint, tmp_path):
    teacher, student = build_backbone(seed=1), build_backbone(seed=2)
    file = checkpoint(teacher, student)
    for which, model in ('teacher', teacher), ('student', student):
        export_backbone(file, tmp_path / which, 'safetensors', which)
        tensors = load_file(tmp_path / which / WEIGHTS)
        assert all(torch.equal(tensors[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize('to', ['timm', 'hf', 'torchscript'])
def test_positions_are_resized_on_request_only(checkpoint, tmp_path, to):
    file = checkpoint(build_backbone())
    comparisons = export_backbone(file, tmp_path / 'out', to, img_size=64)
    assert comparisons[0].size == (64, 64)
    assert comparisons[0].equal
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = FORMATS[to].load(tmp_path / 'out')(images)
    expected = open_backbone(file, img_size=64).model(images)
    np.testing.assert_allclose(found[0], expected.cls, rtol=0, atol=1e-5)
    assert '| image size | 64 x 64, positions resized to it |' in (tmp_path / 'out' / 'README.md').read_text()


@pytest.mark.parametrize('value', [1e-3, float('nan')])
def test_a_wrong_artifact_is_detected_and_leaves_nothing(checkpoint, tmp_path, monkeypatch, value):
    write = TimmFolder.write

    def tampered(self, opened, folder):
        write(self, opened, folder)
        tensors = load_file(folder / WEIGHTS)
        tensors['blocks.1.mlp.fc2.bias'][3] += value
        save_file(tensors, folder / WEIGHTS)

    monkeypatch.setattr(TimmFolder, 'write', tampered)
    file = checkpoint(build_backbone())
    number = 'inf' if value != value else r'[\d.]+(e-\d+)?'
    with pytest.raises(ValueError, match=rf'differs from the original: for images of 32x32, .* differ by ({number}) '):
        export_backbone(file, tmp_path / 'new' / 'out', 'timm')
    assert not list((tmp_path / 'new').iterdir())


def test_outputs_of_other_shapes_are_detected(checkpoint):
    opened = open_backbone(checkpoint(build_backbone()))
    with pytest.raises(ValueError, match=r'returns \(1, 16, 24\) for 1 images of 32x32'):
        compare(opened, lambda images: (opened.model(images).patches,), (32, 32))


def test_full_folders_are_left_alone(checkpoint, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'thesis.txt').write_text('ten years')
    for target in (tmp_path / 'out', tmp_path / 'out' / 'thesis.txt'):
        with pytest.raises(ValueError, match='already exists: choose another folder'):
            export_backbone(checkpoint(build_backbone()), target, 'timm')
    assert (tmp_path / 'out' / 'thesis.txt').read_text() == 'ten years'


def test_mistakes_are_found_before_the_work(checkpoint, tmp_path):
    file, out = checkpoint(build_backbone()), tmp_path / 'out'
    with pytest.raises(ValueError, match="format 'caffe': choose one of timm, safetensors, onnx, torchscript, hf"):
        export_backbone(file, out, 'caffe')
    with pytest.raises(FileNotFoundError, match=r'evaluation .*a\.json does not exist'):
        export_backbone(file, out, 'timm', text=CardText(evaluations=[tmp_path / 'a.json']))
    (tmp_path / 'a.json').write_text('{')
    with pytest.raises(ValueError, match=r'evaluation .*a\.json is not a JSON file'):
        export_backbone(file, out, 'timm', text=CardText(evaluations=[tmp_path / 'a.json']))
    (tmp_path / 'a.json').write_text('[1]')
    with pytest.raises(ValueError, match=r'a\.json contains a list, not a JSON object'):
        export_backbone(file, out, 'timm', text=CardText(evaluations=[tmp_path / 'a.json']))
    assert not out.exists()


@pytest.mark.parametrize(('to', 'package'), [('hf', 'transformers'), ('onnx', 'onnxruntime'), ('onnx', 'onnxscript')])
def test_missing_packages_are_named(checkpoint, tmp_path, monkeypatch, to, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf'the format {to} needs {package}, .* pip install .mmadclr.export.'):
        export_backbone(checkpoint(build_backbone()), tmp_path / 'out', to)


def test_packages_of_formats_are_imported_only_by_them():
    for file in (REPO / 'mmadclr' / 'export').glob('*.py'):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, 'module', None)]
            assert not {'transformers', 'onnx', 'onnxruntime', 'onnxscript'} & {str(name).split('.')[0] for name in names}
