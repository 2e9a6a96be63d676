"""Features of a folder in one call, against the model and transform of the other call."""

import subprocess
import sys

import pytest
import torch
from PIL import Image
from places import GOLDEN_CHECKPOINTS, REPO

import mmadclr
from mmadclr.datasets import UnreadableImageError

DINO = dict(checkpoint=GOLDEN_CHECKPOINTS / 'dino_backbone.pth', num_heads=3, size=32)


def test_features_are_those_of_the_loaded_backbone(image_folder):
    root = image_folder(count=7, classes=2)
    found = mmadclr.extract_features(root, **DINO, patches=True, batch_size=3)
    model, transform = mmadclr.load_backbone(**DINO)
    assert found.paths == sorted(root.rglob('*.png'))
    assert found.unreadable == []
    outputs = [model(transform(Image.open(path))[None]) for path in found.paths]
    torch.testing.assert_close(found.cls, torch.cat([output.cls for output in outputs]), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.patches, torch.cat([output.patches for output in outputs]), rtol=0, atol=1e-5)
    fast = mmadclr.extract_features(root, **DINO, patches=True, read='fast')
    assert 1e-5 < (fast.cls - found.cls).abs().max() < 0.02  # a level of 255 here and there
    alone = mmadclr.extract_features(root, **DINO)
    assert alone.patches is None
    torch.testing.assert_close(alone.cls, found.cls)


def test_unreadable_images_are_listed_and_limited(image_folder):
    root = image_folder(count=6, classes=2)
    whole = mmadclr.extract_features(root, **DINO)
    broken = whole.paths[2]
    broken.write_bytes(broken.read_bytes()[:50])
    found = mmadclr.extract_features(root, **DINO, batch_size=2)
    kept = [0, 1, 3, 4, 5]
    assert found.paths == [whole.paths[i] for i in kept]
    torch.testing.assert_close(found.cls, whole.cls[kept])
    assert [message.startswith(str(broken)) for message in found.unreadable] == [True]
    with pytest.raises(UnreadableImageError, match='1 of 6 images'):
        mmadclr.extract_features(root, **DINO, max_unreadable=0)


def test_backbones_without_class_token_have_patches_alone(image_folder):
    root = image_folder(count=2)
    selfpatch = DINO | dict(checkpoint=GOLDEN_CHECKPOINTS / 'selfpatch_checkpoint.pth')
    found = mmadclr.extract_features(root, **selfpatch, patches=True)
    assert found.cls is None
    assert found.patches.shape == (2, 4, 12)
    with pytest.raises(ValueError, match='selfpatch_checkpoint.pth: the backbone has no class token; set patches=True'):
        mmadclr.extract_features(root, **selfpatch)


def test_mistakes_are_explained(tmp_path):
    with pytest.raises(ValueError, match=f'no images in {tmp_path}'):
        mmadclr.extract_features(tmp_path, **DINO)
    with pytest.raises(FileNotFoundError, match='data_root /nowhere does not exist'):
        mmadclr.extract_features('/nowhere', **DINO)
    with pytest.raises(AttributeError, match="module 'mmadclr' has no attribute 'extract_feature'"):
        _ = mmadclr.extract_feature


def test_the_package_imports_nothing_before_it_is_asked():
    code = "import sys, mmadclr; assert not {'torch', 'mmengine', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, '-c', code], cwd=REPO, check=True)
