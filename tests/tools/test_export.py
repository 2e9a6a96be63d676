"""``tools/export.py`` as users meet it."""

import json
import os
import subprocess
import sys

import torch
from places import GOLDEN_CHECKPOINTS, REPO
from safetensors.torch import load_file


def export(*arguments):
    environment = os.environ | dict(OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
    command = [sys.executable, 'tools/export.py', *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=120)


def test_a_student_with_everything_for_the_card(tmp_path):
    (tmp_path / 'knn.json').write_text(json.dumps({'knn/top1_k20': 74.5}))
    done = export(
        GOLDEN_CHECKPOINTS / 'dino_checkpoint.pth', tmp_path / 'out', '--format', 'timm', '--num-heads', 3,
        '--which', 'student', '--evaluation', tmp_path / 'knn.json',
        '--name', 'my-vit', '--data', 'four pictures', '--licence', 'apache-2.0',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'images of 224x224: largest difference' in done.stdout
    tensors = load_file(tmp_path / 'out' / 'model.safetensors')
    student = torch.load(GOLDEN_CHECKPOINTS / 'dino_checkpoint.pth', weights_only=False)['student']
    assert torch.equal(tensors['cls_token'], student['module.backbone.cls_token'])
    card = (tmp_path / 'out' / 'README.md').read_text()
    for line in ('# my-vit', '| data | four pictures |', '| licence | apache-2.0 |', '| knn.json | knn/top1_k20 | 74.5 |'):
        assert line in card
    assert "timm.create_model('local-dir:out', pretrained=True)" in card


def test_mistakes_end_in_one_line(tmp_path):
    done = export(GOLDEN_CHECKPOINTS / 'selfpatch_checkpoint.pth', tmp_path / 'out', '--format', 'hf', '--num-heads', 3)
    assert done.returncode == 1
    assert done.stderr.startswith('error: ')
    assert 'without class token and final norm has no model in transformers' in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
