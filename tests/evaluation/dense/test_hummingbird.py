"""In-context segmentation against the published code's numbers, and a slow form."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmadclr.evaluation.dense.hummingbird import (
    evaluate_hummingbird,
    label_maps,
    patch_shares,
    patches_per_image,
    propagate_shares,
    sample_patches,
    take_patches,
)  # fmt: skip
from mmadclr.evaluation.dense.matching import matched_counts
from mmadclr.evaluation.dense.search import nearest_patches
from mmadclr.evaluation.dense.segmentation_scores import class_counts

RUNS = ('unbounded', 'bounded', 'swapped', 'ignore_zero')


def of(arrays, key):
    return torch.from_numpy(np.asarray(arrays[key]))


@pytest.fixture
def arrays(golden):
    return golden('dense_eval/hummingbird')


def bank_of(arrays, run):
    """Features and shares of the bank of one of the runs."""
    config, grid = arrays.config, (arrays.config['grid'],) * 2
    features, masks = (of(arrays, f'bank_{name}') for name in ('features', 'masks'))
    sizes = (config['augmentation_epoch'], config['num_train'], grid[0] * grid[1], config['dim'])
    assert (features.shape, masks.shape[-1]) == (sizes, config['image_size'])
    assert config['image_size'] == grid[0] * config['patch_size']
    shares = patch_shares(masks.flatten(0, 1), grid, config['num_classes'])
    chosen = torch.arange(sizes[2]).expand(len(shares), -1)
    if run == 'bounded':
        number = patches_per_image(config['memory_size'], config['num_train'], config['augmentation_epoch'])
        assert number == arrays['bounded/num_sampled']
        chosen = sample_patches(shares, number, of(arrays, 'bounded/uniform').flatten(0, 1))
        assert chosen.tolist() == of(arrays, 'bounded/sampled_indices').flatten(0, 1).tolist()
    return take_patches(features.flatten(0, 1), chosen), take_patches(shares, chosen)


@pytest.mark.parametrize('run', RUNS)
def test_every_number_is_that_of_the_published_code(arrays, run):
    config, grid = arrays.config, (arrays.config['grid'],) * 2
    bank, shares = bank_of(arrays, run)
    queries = of(arrays, 'val_features_swapped' if run == 'swapped' else 'val_features')
    masks = of(arrays, 'val_masks')
    ignore = int(arrays[f'{run}/ignore_index']) if f'{run}/ignore_index' in arrays else 255
    masks = torch.where(masks == 255, ignore, masks)
    assert len(masks) == config['num_val']
    k = config['n_neighbours']
    found = propagate_shares(bank, shares, queries.flatten(0, 1), k, config['beta']).unflatten(0, queries.shape[:2])
    np.testing.assert_allclose(found, arrays[f'{run}/label_hat'], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(label_maps(found, grid, masks.shape[1:]), arrays[f'{run}/prediction'])
    result = evaluate_hummingbird(bank, shares, queries, masks, grid, k=k, beta=config['beta'], ignore=(ignore,))
    np.testing.assert_array_equal(result.counts.confusion, arrays[f'{run}/confusion'])
    assert result.mapping.tolist() == arrays[f'{run}/mapping'].tolist()
    matched = class_counts(matched_counts(result.counts.confusion, result.mapping))
    for name, values in zip(('tp', 'fp', 'fn'), matched, strict=True):
        assert values.tolist() == arrays[f'{run}/{name}'].tolist()
    expected = {f'hummingbird{k}_mIoU': f'{run}/miou', f'hummingbird{k}_mIoU_identity': f'{run}/miou_identity'}
    assert result.metrics == {name: pytest.approx(100 * float(arrays[key]), abs=1e-7) for name, key in expected.items()}


@pytest.mark.parametrize('run', ['unbounded', 'bounded'])
def test_banks_and_neighbors_are_those_of_the_published_code(arrays, run):
    bank, shares = bank_of(arrays, run)
    np.testing.assert_allclose(F.normalize(bank, dim=1), arrays[f'{run}/memory_features'], rtol=0, atol=1e-6)
    np.testing.assert_allclose(shares, arrays[f'{run}/memory_labels'], rtol=0, atol=1e-6)
    queries = of(arrays, 'val_features').flatten(0, 1)
    cosines, rows = nearest_patches(bank, queries, arrays.config['n_neighbours'])
    np.testing.assert_array_equal(rows, arrays[f'{run}/neighbours'].reshape(rows.shape))
    similarities = cosines * queries.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(similarities, arrays[f'{run}/similarities'].reshape(rows.shape), rtol=0, atol=1e-4)


def test_shares_of_a_plain_form_on_a_grid_that_is_not_square():
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(400, 12, generator=generator), torch.randn(50, 12, generator=generator)
    shares = torch.rand(400, 4, generator=generator).softmax(dim=1)
    cosines = F.normalize(queries.double(), dim=1) @ F.normalize(bank.double(), dim=1).T
    values, rows = cosines.topk(7)
    expected = torch.einsum('qk,qkc->qc', (values / 0.1).softmax(dim=1), shares.double()[rows]).float()
    torch.testing.assert_close(propagate_shares(bank, shares, queries, 7, 0.1), expected, rtol=0, atol=1e-6)
    masks = torch.randint(0, 4, (2, 15, 20), generator=generator)
    result = evaluate_hummingbird(bank, shares, queries.view(2, 25, 12)[:, :20], masks, (4, 5), k=7, matching=None)
    assert result.mapping is None
    assert result.metrics['hummingbird7_mIoU'] == result.metrics['hummingbird7_mIoU_identity']


def test_void_is_a_class_of_the_bank_or_none():
    masks = torch.tensor([[[0, 255, 255, 255], [1, 1, 255, 255]]])
    assert patch_shares(masks, (1, 2), 2)[0].tolist() == [[0.5, 0.5], [1, 0]]
    assert patch_shares(masks, (1, 2), 2, void_as=1)[0].tolist() == [[0.25, 0.75], [0, 1]]
    shares = patch_shares(masks, (1, 2), 2, void_as=None)[0]
    torch.testing.assert_close(shares, torch.tensor([[1 / 3, 2 / 3], [0, 0]]))
    assert sample_patches(shares[None], 1, torch.tensor([[0.9, 0.1]])).tolist() == [[0]]


def test_a_bank_for_more_patches_than_there_are_takes_all():
    shares = torch.rand(2, 6, 3)
    chosen = sample_patches(shares, patches_per_image(1000, 2), torch.rand(2, 6))
    assert chosen.sort(dim=1).values.tolist() == [[*range(6)]] * 2
    assert patches_per_image(3, 7, 2) == 1


def test_classes_that_were_not_learned_are_named():
    bank, shares = torch.eye(3), F.one_hot(torch.tensor([0, 1, 1]), 3).float()
    masks = torch.tensor([[[0, 1], [2, 2]]])
    result = evaluate_hummingbird(bank, shares, torch.eye(3)[[0, 1, 2, 2]][None], masks, (2, 2), k=1)
    assert result.unlearned == (2,)


def test_bad_input_is_refused():
    bank, shares, features = torch.randn(40, 3), torch.rand(40, 2), torch.randn(2, 4, 3)
    masks = torch.zeros(2, 4, 4).long()
    cases = [
        ((bank[:20], shares[:20], features, masks, (2, 2)), 'k=30 neighbors: must be between 1 and 20'),
        ((bank, shares[:9], features, masks, (2, 2)), '40 patches in the bank with shares for 9'),
        ((bank, shares, features, masks[:1], (2, 2)), 'of the same images'),
        ((bank, shares, features, masks, (2, 3)), 'grid 2 x 3'),
        ((bank, shares, features, masks + 2, (2, 2)), 'label 2 is neither one of the 2 classes'),
        ((bank, shares, features, masks + 255, (2, 2)), 'no pixel is annotated'),
        ((bank * 0, shares, features, masks, (2, 2)), 'bank feature 0 of 40 is zero or not finite'),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            evaluate_hummingbird(*arguments)
    with pytest.raises(ValueError, match='multiples of the grid'):
        patch_shares(masks, (3, 3), 2)
    with pytest.raises(ValueError, match='void_as=2'):
        patch_shares(masks, (2, 2), 2, void_as=2)
    with pytest.raises(ValueError, match='beta=0'):
        propagate_shares(bank, shares, features[0], beta=0)
    with pytest.raises(ValueError, match='must have the same shape'):
        sample_patches(torch.rand(1, 4, 2), 2, torch.rand(1, 3))
