"""Every format holds every backbone it can hold, and says so where it cannot."""

import json

import numpy as np
import pytest
import timm
import torch
from backbones import build_backbone
from golden_files import enlarged
from PIL import Image
from places import GOLDEN_CHECKPOINTS
from timm.data import create_transform, resolve_model_data_config
from transformers import AutoImageProcessor

from mmadclr.api import evaluation_transform
from mmadclr.hub.export import FORMATS, export_backbone
from mmadclr.hub.export.timm_folder import CROP_RATIO, crop_ratio, timm_name
from mmadclr.hub.opening import open_backbone

PROGRAMS = ('onnx', 'torchscript')
HOLDS_ALL = ('timm', 'safetensors', *PROGRAMS)


def native(expected):
    """The input of the golden files at the size that the backbone is for."""
    return torch.from_numpy(enlarged(expected))


@pytest.mark.parametrize(
    ('to', 'who'), [*((to, 'teacher') for to in FORMATS), ('hf', 'student'), ('torchscript', 'student')]
)
def test_dino_checkpoint(golden, tmp_path, to, who):
    expected = golden('checkpoints/dino_expected')
    file = golden.path('checkpoints/dino_checkpoint.pth')
    export_backbone(file, tmp_path / 'out', to, who, num_heads=expected.config['num_heads'])
    features = FORMATS[to].load(tmp_path / 'out')
    with torch.no_grad():
        np.testing.assert_allclose(features(native(expected))[0], expected[f'{who}/features_224'], rtol=0, atol=3e-5)
        if to in PROGRAMS:
            found = features(torch.from_numpy(expected['image_96']))[0]
            np.testing.assert_allclose(found, expected[f'{who}/features_96'], rtol=0, atol=3e-5)


@pytest.mark.parametrize(
    ('to', 'file'), [*((to, 'ibot_checkpoint.pth') for to in FORMATS), ('timm', 'ibot_checkpoint_teacher.pth')]
)
def test_ibot_checkpoint(golden, tmp_path, to, file):
    expected = golden('checkpoints/ibot_expected')
    path = golden.path(f'checkpoints/{file}')
    export_backbone(path, tmp_path / 'out', to, num_heads=expected.config['num_heads'])
    with torch.no_grad():
        cls, patches = FORMATS[to].load(tmp_path / 'out')(native(expected))
    tokens = torch.cat((cls[:, None], patches), dim=1)
    np.testing.assert_allclose(tokens, expected['teacher/tokens_224'], rtol=0, atol=3e-5)


@pytest.mark.parametrize('to', HOLDS_ALL)
def test_selfpatch_checkpoint(golden, tmp_path, to):
    expected = golden('checkpoints/selfpatch_expected')
    file = golden.path('checkpoints/selfpatch_checkpoint.pth')
    export_backbone(file, tmp_path / 'out', to, num_heads=expected.config['num_heads'])
    image = native(expected)
    with torch.no_grad():
        (patches,) = FORMATS[to].load(tmp_path / 'out')(torch.cat((image, image.flip(3))))
    np.testing.assert_allclose(patches, expected['teacher/tokens_224'], rtol=0, atol=1e-4)


def test_transformers_cannot_hold_selfpatch(tmp_path):
    file = GOLDEN_CHECKPOINTS / 'selfpatch_checkpoint.pth'
    message = r'selfpatch_checkpoint.pth: .* no model without class token and final norm; .* formats timm, safetensors'
    with pytest.raises(ValueError, match=message):
        export_backbone(file, tmp_path / 'out', 'hf', num_heads=3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('to', FORMATS)
def test_registers_and_layer_scales(dinov2_folders, to):
    comparisons = dinov2_folders[1][to]
    # Every library resizes positions by exact size, as this backbone does.
    assert all(comparison.equal for comparison in comparisons)
    assert len(comparisons) == 3 + (to in PROGRAMS)


@pytest.mark.parametrize('variant', ['layer_scale', 'registers'])
def test_layer_scales_or_registers_alone_in_transformers(checkpoint, tmp_path, variant):
    comparisons = export_backbone(checkpoint(build_backbone(variant)), tmp_path / 'out', 'hf')
    assert comparisons[0].equal


@pytest.mark.parametrize('to', ['timm', 'safetensors', 'torchscript', 'hf'])
def test_grids_that_are_not_square(checkpoint, tmp_path, to):
    comparisons = export_backbone(checkpoint(build_backbone('not_square')), tmp_path / 'out', to)
    assert comparisons[0].equal
    assert comparisons[0].size == (32, 48)
    if to == 'hf':
        assert len(comparisons) == 1
        assert 'other sizes are not supported' in (tmp_path / 'out' / 'README.md').read_text()


def test_transformers_wants_square_grids_beside_layer_scales(checkpoint, tmp_path):
    model = build_backbone('layer_scale', img_size=(32, 48))
    with pytest.raises(ValueError, match=r'ours.pth: .* square grid of positions, but this one is for 32x48'):
        export_backbone(checkpoint(model), tmp_path / 'out', 'hf')


def test_other_sizes_are_promised_only_under_the_same_rule(checkpoint, tmp_path):
    for variant, text in (
        ('plain', 'Only the first size is guaranteed'),
        ('exact_size', 'Other sizes also give equal features'),
    ):
        comparisons = export_backbone(checkpoint(build_backbone(variant)), tmp_path / variant, 'timm')
        assert [c.equal for c in comparisons] == [True, variant == 'exact_size', variant == 'exact_size']
        assert text in (tmp_path / variant / 'README.md').read_text()


def test_named_architectures_of_timm(checkpoint, tmp_path):
    sizes = dict(embed_dim=384, depth=12, num_heads=6, patch_size=16, mlp_ratio=4.0)
    assert timm_name(sizes) == 'vit_small_patch16_224'
    assert timm_name({**sizes, 'embed_dim': 768, 'num_heads': 12, 'patch_size': 8}) == 'vit_base_patch8_224'
    assert timm_name({**sizes, 'embed_dim': 1024, 'num_heads': 16, 'depth': 24}) == 'vit_large_patch16_224'
    arch = dict(embed_dim=192, depth=12, num_heads=3, patch_size=16)
    export_backbone(checkpoint(build_backbone(arch=arch, img_size=64)), tmp_path / 'out', 'timm', num_heads=3)
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert config['architecture'] == 'vit_tiny_patch16_224'
    assert config['model_args']['img_size'] == [64, 64]
    assert 'embed_dim' not in config['model_args']


def test_tensors_of_timm_are_ours(checkpoint, tmp_path):
    model = build_backbone()
    export_backbone(checkpoint(model), tmp_path / 'out', 'timm')
    found = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True).state_dict()
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())
    reopened = open_backbone(tmp_path / 'out' / 'model.safetensors', num_heads=3).model
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(reopened(images).patches, model(images).patches, rtol=0, atol=0)


@pytest.mark.parametrize('size', [32, 40])
def test_images_are_prepared_as_here(checkpoint, tmp_path, size):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (90, 71, 3), dtype=np.uint8))  # the margins of the crop are even
    file = checkpoint(build_backbone(img_size=size))
    opened = open_backbone(file)
    expected = evaluation_transform(size, opened.mean, opened.std)(image)
    export_backbone(file, tmp_path / 'timm', 'timm')
    model = timm.create_model(f'local-dir:{tmp_path / "timm"}', pretrained=True)
    transform = create_transform(**resolve_model_data_config(model))
    torch.testing.assert_close(transform(image), expected, rtol=0, atol=1e-6)
    export_backbone(file, tmp_path / 'hf', 'hf')
    found = AutoImageProcessor.from_pretrained(tmp_path / 'hf')(image, return_tensors='pt').pixel_values[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_short_side_of_timm_is_ours_at_any_size():
    assert crop_ratio(224) == CROP_RATIO
    for size in range(8, 1025, 8):
        assert int(size / crop_ratio(size)) == round(size * 8 / 7)
