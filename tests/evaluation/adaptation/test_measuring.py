"""One pass over images: what it returns equals views made one by one, on any batches; and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import images_of, paint_classes, paint_masks, small_backbone

from mmadclr.evaluation.adaptation import encoder_of, measure_backbone, random_twin, sample_images
from mmadclr.evaluation.adaptation.label_free import knn_hits
from mmadclr.evaluation.adaptation.measuring import drift_of
from mmadclr.evaluation.adaptation.outputs import FeatureError, image_and_patches, image_outputs
from mmadclr.evaluation.adaptation.views import drawn_crop, drawn_patches, mirrored
from mmadclr.evaluation.dense_probe import DenseProbe
from mmadclr.evaluation.extraction import Loading
from mmadclr.evaluation.extractor import FeatureExtractor


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return paint_classes(tmp_path_factory.mktemp('images'))


@pytest.fixture(scope='module')
def measured(folder):
    return measure_backbone(encoder_of(small_backbone()), images_of(folder), Loading(5))


def encode(encoder, image, mode='tensor'):
    return encoder(**encoder.data_preprocessor({'images': image[None]}), mode=mode)[0]


def test_outputs_are_those_of_views_one_by_one(folder, measured):
    encoder, dataset, outputs = encoder_of(small_backbone()), images_of(folder), measured.outputs
    assert outputs.indices.tolist() == list(range(24))
    for index in (0, 7, 23):
        image = dataset[index]['images'].clone()
        places, opposite = drawn_patches(index, 4)
        torch.testing.assert_close(outputs.whole[index], encode(encoder, image), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(outputs.crop[index], encode(encoder, drawn_crop(image, index)), atol=1e-5, rtol=1e-4)
        patches, other = (encode(encoder, view, 'patches') for view in (image, mirrored(image, index)))
        torch.testing.assert_close(outputs.patches[index], patches[places], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(outputs.mirrored[index], other[opposite], atol=1e-5, rtol=1e-4)


def test_batches_and_workers_and_chosen_images_change_nothing(folder, measured):
    chosen = np.array([2, 3, 11, 19, 20])
    found = image_outputs(encoder_of(small_backbone()), images_of(folder), Loading(3, 1), chosen)
    assert found.indices.tolist() == chosen.tolist()
    assert found.labels.tolist() == [index // 8 for index in chosen]
    for name in ('whole', 'crop', 'patches', 'mirrored'):
        torch.testing.assert_close(getattr(found, name), getattr(measured.outputs, name)[chosen], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('features', ['cls', 'cls4', 'mean', 'cls+mean'])
def test_images_and_patches_in_one_pass_are_those_of_two(folder, features):
    encoder = FeatureExtractor(small_backbone(), features)
    inputs = encoder.data_preprocessor({'images': torch.stack([images_of(folder)[i]['images'].clone() for i in range(3)])})
    calls = []
    encoder.backbone.patch_embed.register_forward_hook(lambda *args: calls.append(1))
    whole, patches = image_and_patches(encoder, inputs)
    assert len(calls) == (1 if features == 'cls' else 2)
    torch.testing.assert_close(whole, encoder(**inputs), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(patches, encoder(**inputs, mode='patches'))


def test_measures_by_what_the_data_allow(folder, measured, tmp_path):
    label_free = ['retrieval', 'patch_agreement', 'alignment', 'uniformity', 'rank']
    assert list(measured.scores) == [*label_free, 'knn']
    outputs = measured.outputs
    assert measured.values()['knn'] == pytest.approx(100 * knn_hits(outputs.whole, outputs.labels).mean().item())
    unlabeled = measure_backbone(encoder_of(small_backbone()), images_of(folder, with_label=False))
    assert list(unlabeled.scores) == label_free
    assert unlabeled.values() == pytest.approx({name: measured.values()[name] for name in label_free}, rel=1e-3)
    one_class = measure_backbone(encoder_of(small_backbone()), images_of(paint_classes(tmp_path, 6, classes=1)))
    assert list(one_class.scores) == label_free


def test_mious_are_those_of_the_dense_probe(folder, tmp_path):
    train, val = paint_masks(tmp_path)
    probe, encoder = DenseProbe(train, val, k=5, batch_size=3), encoder_of(small_backbone())
    found = measure_backbone(encoder, images_of(folder), probe=probe).values()
    expected = probe.of_model(encoder)
    assert expected.keys() <= found.keys()
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert all(10 < value < 100 for value in expected.values())


def test_backbones_without_class_token_use_the_mean_of_the_patches(folder):
    opened = small_backbone(class_token=False)
    outputs = image_outputs(encoder_of(opened), images_of(folder), indices=np.arange(5))
    images = torch.stack([images_of(folder)[index]['images'].clone() for index in range(5)])
    encoder = encoder_of(opened)
    expected = encoder(**encoder.data_preprocessor({'images': images}), mode='patches').mean(dim=1)
    torch.testing.assert_close(outputs.whole, expected, atol=1e-5, rtol=1e-4)


def test_random_twins_have_the_architecture_and_other_weights(folder):
    opened = small_backbone()
    before = torch.random.get_rng_state()
    twin, again = random_twin(opened, 1), random_twin(opened, 1)
    assert torch.equal(torch.random.get_rng_state(), before)
    states = [each.model.state_dict() for each in (opened, twin, again)]
    assert [{name: value.shape for name, value in state.items()} for state in states[:2]] == [
        {name: value.shape for name, value in states[0].items()}
    ] * 2
    assert not torch.equal(states[0]['blocks.0.attn.qkv.weight'], states[1]['blocks.0.attn.qkv.weight'])
    assert all(torch.equal(states[1][name], states[2][name]) for name in states[1])


def test_drift_of_a_model_from_itself_and_from_another(folder, measured):
    same = drift_of(measured.outputs, measured.outputs)
    assert same == pytest.approx(dict.fromkeys(same, 1.0))
    assert list(same) == ['drift_cls_cka', 'drift_cls_cosine', 'drift_patch_cka', 'drift_patch_cosine']
    other = image_outputs(encoder_of(small_backbone(1)), images_of(folder))
    found = drift_of(measured.outputs, other)
    assert abs(found['drift_cls_cosine']) < 0.9
    assert found['drift_patch_cka'] < 0.99
    wide = small_backbone(arch=dict(embed_dim=48, depth=2, num_heads=3, patch_size=8))
    assert list(drift_of(measured.outputs, image_outputs(encoder_of(wide), images_of(folder)))) == [
        'drift_cls_cka',
        'drift_patch_cka',
    ]


def test_other_images_are_not_compared(folder, measured):
    other = image_outputs(encoder_of(small_backbone()), images_of(folder), indices=np.arange(10))
    with pytest.raises(ValueError, match=r'measured on different images \(24 and 10\) or patches: measure them again'):
        drift_of(measured.outputs, other)


@pytest.mark.parametrize('count', [1, 3])
def test_too_few_images_are_refused(folder, count):
    with pytest.raises(ValueError, match=rf'{folder}: {count} image\(s\) to measure, but .* at least 4 readable ones'):
        measure_backbone(encoder_of(small_backbone()), images_of(folder), indices=np.arange(count))


@pytest.mark.parametrize(
    ('place', 'part'), [('cls_token', r'\[CLS\] of the image is'), ('pos_embed', 'patches of the image are')]
)
def test_features_that_are_not_finite_are_named(folder, place, part):
    opened = small_backbone()
    encoder = encoder_of(opened)
    if place == 'cls_token':
        opened.model.cls_token.data.fill_(torch.nan)
    else:
        opened.model.norm.register_forward_hook(
            lambda module, args, output: (
                output.index_fill(1, torch.arange(1, output.shape[1]), torch.inf) if output.shape[1] > 1 else output
            )
        )
    with pytest.raises(
        FeatureError, match=rf'tiny: {part} NaN or infinite for 5 of 5 images, the first with index 2: .*fp32'
    ):
        measure_backbone(encoder, images_of(folder), Loading(5), np.array([2, 3, 4, 5, 6, 7]), name='tiny')


def test_images_that_need_padding_are_refused(folder):
    with pytest.raises(FeatureError, match='36 x 36 pixels are not a square grid without padding: .* multiple of the patch'):
        measure_backbone(encoder_of(small_backbone()), images_of(folder, 36))


def test_unreadable_images_are_left_out_for_every_model(tmp_path):
    folder = paint_classes(tmp_path, 9)
    (folder / 'class1' / '001.png').write_bytes(b'no image')
    dataset = images_of(folder)
    outputs = image_outputs(encoder_of(small_backbone()), dataset)
    assert len(outputs.indices) == 8
    assert 3 not in outputs.indices
    assert outputs.labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]


def test_samples_of_images_are_fixed_and_ascending():
    found = sample_images(100, 10)
    assert found.tolist() == sorted(set(found.tolist())) == sample_images(100, 10).tolist()
    assert found.tolist() != sample_images(100, 10, 1).tolist()
    assert sample_images(5, 10).tolist() == [0, 1, 2, 3, 4]
