"""Weighted k-NN against DINO's published numbers, and features of a whole data set."""

import numpy as np
import pytest
import torch
from mmengine.runner import Runner

from mmadclr.datasets import UnreadableImageError
from mmadclr.evaluation import RawPixels, WeightedKNN, extract_features, knn_votes, top_accuracies
from mmadclr.models.preprocessors import ViewPreprocessor


@pytest.fixture
def case(golden):
    arrays = golden('knn_eval')
    return arrays, [torch.from_numpy(arrays[k]) for k in ('train_features', 'train_labels', 'test_features', 'test_labels')]


def neighbours(arrays):
    return sorted({int(k.split('/')[1][1:]) for k in arrays if k.startswith('official/k')})


def test_equals_published_accuracies(case):
    arrays, (bank, bank_labels, queries, labels) = case
    assert neighbours(arrays)
    metrics = WeightedKNN(neighbours(arrays))(bank, bank_labels, queries, labels)
    for k in neighbours(arrays):
        assert metrics[f'knn{k}_T0.07_top1'] == pytest.approx(float(arrays[f'official/k{k}/top1']), abs=1e-4)
        low, high = arrays[f'ref64/k{k}/top5_bounds']
        assert low - 1e-4 <= metrics[f'knn{k}_T0.07_top5'] <= high + 1e-4
        votes = knn_votes(bank.double(), bank_labels, queries.double(), k, 0.07, 10)
        assert np.array_equal(votes.argmax(1).numpy(), arrays[f'ref64/k{k}/prediction'])


@pytest.mark.parametrize('chunk', [1, 7, 10_000])
def test_chunks_change_nothing(case, chunk):
    _, (bank, bank_labels, queries, _) = case
    whole = knn_votes(bank, bank_labels, queries, 20, 0.07, 10)
    torch.testing.assert_close(knn_votes(bank, bank_labels, queries, 20, 0.07, 10, chunk=chunk), whole, rtol=1e-5, atol=0)


def test_features_of_any_norm_are_accepted(case):
    _, (bank, bank_labels, queries, labels) = case
    scaled = bank * torch.rand(len(bank), 1).add(0.5), bank_labels, queries * 3, labels
    assert WeightedKNN(20)(*scaled) == pytest.approx(WeightedKNN(20)(bank, bank_labels, queries, labels))


def test_too_many_neighbours_are_explained(case):
    _, (bank, bank_labels, queries, labels) = case
    with pytest.raises(ValueError, match='k=500 neighbours asked of a bank of 300 features'):
        WeightedKNN(500)(bank, bank_labels, queries, labels)


def test_top_accuracies_with_few_classes():
    votes = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    assert top_accuracies(votes, torch.tensor([1, 1])) == [50.0, 100.0]


def build_loader(root, with_label=True, **kwargs):
    cfg = dict(
        dataset=dict(
            type='mmadclr.ImageDataset',
            data_root=str(root),
            with_label=with_label,
            transform=dict(type='ResizeCentreCrop', resize=16, size=16),
        ),
        sampler=dict(type='mmadclr.EpochSampler', shuffle=False),
        collate_fn=dict(type='mmadclr.collate_samples'),
        batch_size=5,
    )
    return Runner.build_dataloader(cfg | kwargs, seed=0)


def test_features_come_in_the_order_of_the_data_set(image_folder):
    root = image_folder(count=12, classes=3)
    model = RawPixels(ViewPreprocessor())
    features, labels = extract_features(model, build_loader(root))
    shuffled, shuffled_labels = extract_features(
        model, build_loader(root, sampler=dict(type='mmadclr.EpochSampler', shuffle=True))
    )
    assert torch.equal(features, shuffled)
    assert torch.equal(labels, shuffled_labels)
    assert labels.tolist() == build_loader(root).dataset.labels.tolist()
    first = build_loader(root).dataset[0]['images']
    assert torch.equal(features[0], ViewPreprocessor().normalise(first.float()).flatten())


def test_unreadable_images_are_left_out_and_limited(image_folder):
    root = image_folder(count=12, classes=3)
    broken = build_loader(root).dataset.path(4)
    whole = extract_features(RawPixels(ViewPreprocessor()), build_loader(root))
    broken.write_bytes(broken.read_bytes()[:50])
    features, labels = extract_features(RawPixels(ViewPreprocessor()), build_loader(root))
    kept = [0, 1, 2, 3, *range(5, 12)]
    assert torch.equal(features, whole[0][kept])
    assert torch.equal(labels, whole[1][kept])
    with pytest.raises(UnreadableImageError, match=f'1 of 12 images .* cannot be read, the first: {broken}'):
        extract_features(RawPixels(ViewPreprocessor()), build_loader(root), max_unreadable=0)


def test_missing_labels_and_images_are_explained(image_folder):
    root = image_folder(count=12)
    model = RawPixels(ViewPreprocessor())
    with pytest.raises(ValueError, match='evaluation needs labels'):
        extract_features(model, build_loader(root, with_label=False))
    with pytest.raises(ValueError, match='2 of 12 images were left out'):
        extract_features(model, build_loader(root, drop_last=True))
