"""``tools/export.py`` as users meet it."""

import json

import torch
from places import GOLDEN_CHECKPOINTS
from programs import python
from safetensors.torch import load_file

from mmadclr.hub.export import export_backbone


def export(*arguments):
    return python('tools/export.py', *arguments, check=False)


def test_a_student_with_everything_for_the_card(tmp_path):
    (tmp_path / 'knn.json').write_text(json.dumps({'knn/top1_k20': 74.5}))
    done = export(
        GOLDEN_CHECKPOINTS / 'dino_checkpoint.pth', tmp_path / 'out', '--format', 'timm', '--num-heads', 3,
        '--which', 'student', '--evaluation', tmp_path / 'knn.json',
        '--name', 'my-vit', '--data', 'four pictures', '--license', 'apache-2.0',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'images of 224x224: largest difference' in done.stdout
    tensors = load_file(tmp_path / 'out' / 'model.safetensors')
    student = torch.load(GOLDEN_CHECKPOINTS / 'dino_checkpoint.pth', weights_only=False)['student']
    assert torch.equal(tensors['cls_token'], student['module.backbone.cls_token'])
    card = (tmp_path / 'out' / 'README.md').read_text()
    for line in ('# my-vit', '| data | four pictures |', '| license | apache-2.0 |', '| knn.json | knn/top1_k20 | 74.5 |'):
        assert line in card
    assert "timm.create_model('local-dir:out', pretrained=True)" in card


def convert(*arguments):
    return python('tools/convert.py', *arguments, check=False)


def test_a_folder_for_transformers_is_converted_back(tmp_path):
    backbone = GOLDEN_CHECKPOINTS / 'dino_backbone.pth'
    export_backbone(backbone, tmp_path / 'my-vit', 'hf', num_heads=3)
    done = convert(tmp_path / 'my-vit', tmp_path / 'back.pth', '--to', 'timm')
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f'wrote {tmp_path}/back.pth, read back and equal'
    back, original = (torch.load(path, weights_only=True) for path in (tmp_path / 'back.pth', backbone))
    assert back.keys() == original.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in original.items())


def test_both_tools_refuse_the_same_and_name_it(tmp_path):
    state = torch.load(GOLDEN_CHECKPOINTS / 'dino_backbone.pth', weights_only=True)
    torch.save(state | {'norm_pre.weight': torch.ones(12)}, tmp_path / 'clip.pth')
    for done in (
        export(tmp_path / 'clip.pth', tmp_path / 'out', '--format', 'timm', '--num-heads', 3),
        convert(tmp_path / 'clip.pth', tmp_path / 'out.pth', '--to', 'timm'),
    ):
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {tmp_path}/clip.pth: it is CLIP's image tower")
        assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ['clip.pth']


def test_mistakes_end_in_one_line(tmp_path):
    done = export(GOLDEN_CHECKPOINTS / 'selfpatch_checkpoint.pth', tmp_path / 'out', '--format', 'hf', '--num-heads', 3)
    assert done.returncode == 1
    assert done.stderr.startswith('error: ')
    assert 'transformers has no model without class token and final norm' in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
