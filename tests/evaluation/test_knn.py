"""Weighted k-NN against DINO's published numbers, and features of a whole data set."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from counters import PeakBytes
from feature_sets import feature_set
from mmengine.runner import Runner

from mmadclr.datasets import UnreadableImageError
from mmadclr.evaluation import RawPixels, WeightedKNN, knn_votes, top_accuracies
from mmadclr.evaluation.extraction import extract_shard
from mmadclr.evaluation.knn import Directions, evaluate_knn, first_largest, nearest_neighbors
from mmadclr.models.preprocessors import ViewPreprocessor


@pytest.fixture
def case(golden):
    arrays = golden('knn_eval')
    return arrays, [torch.from_numpy(arrays[k]) for k in ('train_features', 'train_labels', 'test_features', 'test_labels')]


def neighbors(arrays):
    found = sorted({int(k.split('/')[1][1:]) for k in arrays if k.startswith('official/k')})
    assert found
    return found


def test_equals_published_accuracies(case):
    arrays, (bank, bank_labels, queries, labels) = case
    config, ks = arrays.config, neighbors(arrays)
    temperature, classes = config['temperature'], config['num_classes']
    assert int(torch.cat((bank_labels, labels)).max()) < classes
    metrics = WeightedKNN(ks, temperature)(bank, bank_labels, queries, labels)
    for k in ks:
        top1, top5 = (metrics[f'knn{k}_T{temperature:g}_{name}'] for name in ('top1', 'top5'))
        assert top1 == pytest.approx(float(arrays[f'official/k{k}/top1']), rel=0, abs=1e-4)
        assert top1 == pytest.approx(float(arrays[f'ref64/k{k}/top1']), rel=0, abs=1e-10)
        low, high = arrays[f'ref64/k{k}/top5_bounds']
        for found in (top5, arrays[f'official/k{k}/top5']):
            assert low - 1e-4 <= found <= high + 1e-4
        votes = knn_votes(bank.double(), bank_labels, queries.double(), k, temperature, classes)
        assert np.array_equal(votes.argmax(1).numpy(), arrays[f'ref64/k{k}/prediction'])
        np.testing.assert_allclose(top5_bounds(votes, labels), (low, high), rtol=0, atol=1e-10)


def top5_bounds(votes, labels):
    """Smallest and largest accuracy over all orders of classes with equally many votes."""
    own = votes.gather(1, labels[:, None])
    more, equal = (votes > own).sum(1), (votes == own).sum(1)
    worst = (more + equal <= 5).double().mean() * 100
    return worst.item(), (more < 5).double().mean().item() * 100


@pytest.mark.parametrize('chunk', [1, 7, 10_000])
def test_chunks_change_nothing(case, chunk):
    arrays, (bank, bank_labels, queries, _) = case
    settings = max(neighbors(arrays)), arrays.config['temperature'], arrays.config['num_classes']
    whole = knn_votes(bank, bank_labels, queries, *settings)
    torch.testing.assert_close(knn_votes(bank, bank_labels, queries, *settings, chunk=chunk), whole, rtol=1e-5, atol=0)


@pytest.mark.parametrize(('chunk', 'bank_chunk'), [(256, 65_536), (7, 11), (100, 1), (50, -1), (None, 0)])
def test_chunks_of_bank_and_queries_find_the_same_neighbors(case, chunk, bank_chunk):
    arrays, (bank, _, queries, _) = case
    k = max(neighbors(arrays))
    bank_chunk = len(bank) + bank_chunk if bank_chunk < 1 else bank_chunk
    similarity, nearest = nearest_neighbors(bank, queries, k, chunk or len(queries), bank_chunk)
    cosines = queries.double() @ bank.double().T
    largest = cosines.sort(dim=1, descending=True).values[:, :k]
    assert all(len(row.unique()) == k for row in nearest)
    torch.testing.assert_close(cosines.gather(1, nearest), largest, rtol=0, atol=1e-6)  # equal but for ties of rounding
    torch.testing.assert_close(similarity.double(), largest, rtol=0, atol=1e-6)


@pytest.mark.parametrize('k', [1, 6, 40])
def test_of_equals_the_first_count(k):
    values = torch.randint(0, 4, (30, 40)).float()
    values[0] = 2
    expected = values.sort(dim=1, descending=True, stable=True)
    found = first_largest(values, k)
    assert torch.equal(found[0], expected.values[:, :k])
    assert torch.equal(found[1], expected.indices[:, :k])


@pytest.mark.parametrize(('chunk', 'bank_chunk'), [(256, 65_536), (7, 11), (2, 1)])
def test_equal_neighbors_come_in_the_order_of_the_bank(chunk, bank_chunk):
    bank, queries = torch.eye(3)[torch.randint(0, 3, (50,))], torch.eye(3)
    expected = (queries @ bank.T).sort(dim=1, descending=True, stable=True)
    similarity, nearest = nearest_neighbors(bank, queries, 30, chunk, bank_chunk)
    assert torch.equal(similarity, expected.values[:, :30])
    assert torch.equal(nearest, expected.indices[:, :30])


def test_all_settings_come_from_one_search_and_equal_separate_ones(case):
    _, features = case
    both = WeightedKNN((5, 20), (0.04, 0.07))(*features)
    assert list(both)[:2] == ['knn5_T0.04_top1', 'knn5_T0.04_top5']
    single = {}
    for temperature in (0.04, 0.07):
        for k in (5, 20):
            single |= WeightedKNN(k, temperature)(*features)
    assert both == single
    with pytest.raises(ValueError, match=r'temperature=\[0.0\] must be one or more positive numbers'):
        WeightedKNN(5, [0.0])


@pytest.mark.parametrize('dtype', ['float32', 'float16'])
def test_a_bank_on_disk_gives_the_numbers_of_one_in_memory(tmp_path, dtype):
    """Queries and bank as the tool has them, in several memory-mapped files."""
    bank = feature_set(300, classes=10, dim=16, seed=1, spread=2, splits=(100, 101), dtype=dtype)
    queries = feature_set(230, classes=10, dim=16, seed=2, spread=2, dtype=dtype)
    for number, part in enumerate(bank.rows.parts):
        np.save(tmp_path / f'{number}.npy', part)
    mapped = type(bank.rows)([np.load(tmp_path / f'{number}.npy', mmap_mode='r') for number in range(3)])
    found = evaluate_knn(WeightedKNN((5, 20)), bank._replace(rows=mapped), queries, 'cpu')
    labels = [torch.from_numpy(part.labels) for part in (bank, queries)]
    assert found == WeightedKNN((5, 20))(bank.rows[:], labels[0], queries.rows[:], labels[1])
    assert 20 < found['knn20_T0.07_top1'] < 95


def test_memory_does_not_grow_with_bank_times_queries():
    peaks = []
    for count in (2_000, 20_000):
        bank, queries = torch.randn(count, 16).half(), F.normalize(torch.randn(1000, 16), dim=1)
        with PeakBytes() as memory:
            nearest_neighbors(Directions(bank, 'cpu'), queries, 10, chunk=100, bank_chunk=1000)
        peaks.append(memory.most)
    assert peaks[0] == peaks[1] < 20_000 * 1000  # bytes, where all cosines take four times that


def test_features_of_any_norm_are_accepted(case):
    _, (bank, bank_labels, queries, labels) = case
    scaled = bank * torch.rand(len(bank), 1).add(0.5), bank_labels, queries * 3, labels
    assert WeightedKNN(20)(*scaled) == pytest.approx(WeightedKNN(20)(bank, bank_labels, queries, labels))


def test_too_many_neighbors_are_explained(case):
    _, (bank, bank_labels, queries, labels) = case
    with pytest.raises(ValueError, match=f'k=5000 neighbors requested from a bank of {len(bank)} features'):
        WeightedKNN(5000)(bank, bank_labels, queries, labels)


def test_top_accuracies_with_few_classes():
    votes = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    assert top_accuracies(votes, torch.tensor([1, 1])) == [50.0, 100.0]


def build_loader(root, with_label=True, **kwargs):
    cfg = dict(
        dataset=dict(
            type='mmadclr.ImageDataset',
            data_root=str(root),
            with_label=with_label,
            transform=dict(type='ResizeCenterCrop', resize=16, size=16),
        ),
        sampler=dict(type='mmadclr.EpochSampler', shuffle=False),
        collate_fn=dict(type='mmadclr.collate_samples'),
        batch_size=5,
    )
    return Runner.build_dataloader(cfg | kwargs, seed=0)


def test_features_come_in_the_order_of_the_data_set(image_folder):
    root = image_folder(count=12, classes=3)
    model = RawPixels(ViewPreprocessor())
    features, labels = extract_shard(model, build_loader(root)).full()
    shuffled, shuffled_labels = extract_shard(
        model, build_loader(root, sampler=dict(type='mmadclr.EpochSampler', shuffle=True))
    ).full()
    assert torch.equal(features, shuffled)
    assert torch.equal(labels, shuffled_labels)
    assert labels.tolist() == build_loader(root).dataset.labels.tolist()
    first = build_loader(root).dataset[0]['images']
    assert torch.equal(features[0], ViewPreprocessor().normalize(first.float()).flatten())


def test_unreadable_images_are_left_out_and_limited(image_folder):
    root = image_folder(count=12, classes=3)
    broken = build_loader(root).dataset.path(4)
    whole = extract_shard(RawPixels(ViewPreprocessor()), build_loader(root)).full()
    broken.write_bytes(broken.read_bytes()[:50])
    features, labels = extract_shard(RawPixels(ViewPreprocessor()), build_loader(root)).full()
    kept = [0, 1, 2, 3, *range(5, 12)]
    assert torch.equal(features, whole[0][kept])
    assert torch.equal(labels, whole[1][kept])
    with pytest.raises(UnreadableImageError, match=f'1 of 12 images .* cannot be read; the first: {broken}'):
        extract_shard(RawPixels(ViewPreprocessor()), build_loader(root), max_unreadable=0)


def test_missing_labels_and_images_are_explained(image_folder):
    root = image_folder(count=12)
    model = RawPixels(ViewPreprocessor())
    with pytest.raises(ValueError, match='evaluation needs labels'):
        extract_shard(model, build_loader(root, with_label=False))
    with pytest.raises(ValueError, match='2 of 12 images were skipped'):
        extract_shard(model, build_loader(root, drop_last=True))
