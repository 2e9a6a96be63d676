"""Rows of features over several arrays, and the features of a backbone against the published ones."""

import numpy as np
import pytest
import torch
from feature_sets import feature_set
from golden_files import enlarged
from places import GOLDEN_CHECKPOINTS

from mmadclr.evaluation.extractor import FeatureExtractor, default_features
from mmadclr.evaluation.rows import FeatureRows
from mmadclr.hub.opening import open_backbone
from mmadclr.models.backbones.feature_vit import FeatureViT


@pytest.fixture
def published(golden):
    arrays = golden('checkpoints/dino_expected')
    return arrays, torch.from_numpy(enlarged(arrays))


@pytest.fixture
def dino(golden, published):
    arrays, _ = published
    return open_backbone(golden.path('checkpoints/dino_backbone.pth'), num_heads=arrays.config['num_heads'])


def test_last_blocks_are_those_dino_evaluates(dino, published):
    arrays, images = published
    expected = torch.from_numpy(arrays['teacher/last_layers_224'])  # of at most four blocks
    found = FeatureExtractor(dino, 'cls4')(images)[:, -expected.shape[1] :]
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-5)


def test_features_are_those_of_the_backbone(dino, published):
    arrays, images = published
    output = dino.model(images)
    cls = FeatureExtractor(dino, 'cls')(images)
    torch.testing.assert_close(cls, torch.from_numpy(arrays['teacher/features_224']), rtol=0, atol=3e-5)
    mean = output.patches.sum(dim=1) / (arrays.config['img_size'] // arrays.config['patch_size']) ** 2
    torch.testing.assert_close(FeatureExtractor(dino, 'mean')(images), mean)
    torch.testing.assert_close(FeatureExtractor(dino, 'cls+mean')(images), torch.cat((output.cls, mean), dim=1))
    torch.testing.assert_close(FeatureExtractor(dino, 'cls')(images, mode='patches'), output.patches)


def test_pixels_are_normalized_as_the_checkpoint_says(dino):
    extractor = FeatureExtractor(dino._replace(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0)))
    images = extractor.data_preprocessor({'images': torch.full((1, 3, 16, 16), 51, dtype=torch.uint8)})['images']
    torch.testing.assert_close(images[0, :, 0, 0], torch.tensor([0.2, 0.0, -0.1]))


def test_default_features_are_those_of_dino():
    backbones = {width: FeatureViT(arch=dict(embed_dim=width, depth=1, num_heads=1, patch_size=16)) for width in (384, 768)}
    assert [default_features(backbones[width], 'linear') for width in (384, 768)] == ['cls4', 'cls+mean']
    assert [default_features(backbones[width], 'knn') for width in (384, 768)] == ['cls', 'cls']
    without = open_backbone(GOLDEN_CHECKPOINTS / 'selfpatch_checkpoint.pth', num_heads=3)
    assert [default_features(without.model, task) for task in ('knn', 'linear')] == ['mean', 'mean']
    with pytest.raises(ValueError, match="features='cls4': the backbone has no class token; choose 'mean'"):
        FeatureExtractor(without, 'cls4')
    with pytest.raises(ValueError, match="features='cls2': choose one of cls, cls4, cls\\+mean, mean"):
        FeatureExtractor(without, 'cls2')


@pytest.mark.parametrize('splits', [(), (1,), (3, 3, 40)])
def test_rows_do_not_depend_on_the_arrays_they_are_in(splits):
    whole = torch.from_numpy(feature_set().rows.parts[0])
    rows = feature_set(splits=splits).rows
    assert len(rows) == 60
    assert rows.shape == (60, 6)
    assert torch.equal(rows[:], whole)
    assert torch.equal(rows[2:50:7], whole[2:50:7])
    shuffled = np.random.default_rng(0).permutation(60)[:20]
    assert torch.equal(rows[shuffled], whole[shuffled])
    assert rows[np.arange(0)].shape == (0, 6)


def test_no_rows_are_explained():
    for parts in ([np.zeros((0, 4))], [np.zeros((0, 4))] * 2):
        with pytest.raises(ValueError, match='none of the images could be read'):
            FeatureRows(parts)
    assert FeatureRows(parts, may_be_empty=True)[:].shape == (0, 4)


@pytest.mark.parametrize(('start', 'stop'), [(0, 60), (0, 1), (2, 50), (41, 60), (40, 40), (3, 40), (60, 60)])
def test_some_of_the_rows_are_a_view(start, stop):
    rows = feature_set(splits=(3, 3, 40)).rows
    some = rows.between(start, stop)
    assert torch.equal(some[:], rows[start:stop])
    assert len(some) == stop - start
    assert all(any(np.shares_memory(part, whole) for whole in rows.parts) for part in some.parts if len(part))


def test_chosen_images_of_a_spread_set_are_those_of_the_whole():
    whole = feature_set()
    held = np.array([3, 4, 10, 59])
    spread = whole._replace(rows=FeatureRows([whole.rows[held].numpy()]), held=held)
    chosen = np.array([1, 4, 7, 10, 12])
    part = spread.select(chosen)
    assert part.labels.tolist() == whole.labels[chosen].tolist()
    assert part.held.tolist() == [1, 3]
    assert torch.equal(part.rows[:], whole.select(chosen).rows[part.held])
    assert len(spread.select(np.array([1, 7])).rows) == 0


@pytest.mark.parametrize('features', ['cls', 'cls4', 'mean', 'cls+mean'])
def test_half_precision_gives_features_of_the_same_direction(dino, features):
    images = torch.randn(6, 3, 32, 32)
    exact, half = (FeatureExtractor(dino, features, precision)(images) for precision in ('fp32', 'bf16'))
    assert half.dtype == exact.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(exact, half).min() > 0.999
    assert not torch.equal(exact, half)
    patches = [FeatureExtractor(dino, features, name)(images, mode='patches') for name in ('fp32', 'bf16')]
    assert torch.nn.functional.cosine_similarity(*patches, dim=2).min() > 0.999
    assert torch.equal(patches[0], dino.model(images).patches)
    assert torch.equal(FeatureExtractor(dino)(images), dino.model(images, patches=False).cls)  # no autocast around it


def test_unknown_precisions_are_explained(dino):
    with pytest.raises(ValueError, match="precision='fp16': choose one of fp32, bf16"):
        FeatureExtractor(dino, precision='fp16')
