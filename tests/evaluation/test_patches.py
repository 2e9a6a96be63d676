"""Class shares of patches against pooling, and which patches of many images are drawn."""

import numpy as np
import pytest
import torch
from probe_data import paint, pooled_labels, settings

from mmadclr.datasets import MaskedImageDataset
from mmadclr.datasets.label_maps import LabelMapError
from mmadclr.evaluation import patches
from mmadclr.evaluation.patches import choose_patches, count_usable, even_share, over_masks, patch_labels, usable_patches


@pytest.mark.parametrize(
    ('side', 'grid'),
    [(224, (14, 14)), (224, (16, 16)), (224, (15, 13)), (512, (32, 32)), (512, (37, 36)), (30, (7, 32)), (5, (5, 5))],
)
@pytest.mark.parametrize('dtype', [torch.int64, torch.int16])
def test_shares_are_those_of_pooling_one_channel_a_class(side, grid, dtype):
    masks = torch.randint(-1, 150, (2, side, side), dtype=dtype)
    masks[0, : side // 2] = -1  # patches without a pixel that counts
    masks[1, :, : side // 3] = 3
    shares, covered = patch_labels(masks, grid, 150)
    expected, expected_covered = pooled_labels(masks.long(), grid, 150)
    # The order of division is another one; where sides are powers of two, that rounds nothing.
    exact = side % grid[0] == side % grid[1] == 0 and side // grid[0] in (1, 16)
    torch.testing.assert_close(shares, expected, rtol=0, atol=0 if exact else 1e-7)
    torch.testing.assert_close(covered, expected_covered, rtol=0, atol=0 if exact else 1e-7)
    assert not shares[covered == 0].any()


def test_labels_beyond_the_classes_are_refused():
    with pytest.raises(ValueError, match='label 3 must be below 3, the number of classes'):
        patch_labels(torch.full((1, 4, 4), 3), (2, 2), 3)


def test_usable_patches_are_those_with_a_pixel():
    mask = torch.full((6, 6), -1)
    mask[0, 5] = mask[3, 3] = 2
    assert usable_patches(mask, (3, 3)).nonzero().flatten().tolist() == [2, 4]


@pytest.mark.parametrize('number', [0, 5, 17, 1000])
def test_a_draw_by_numbers_is_that_of_one_list_of_all_patches(number):
    usable = [3, 0, 5, 1, 0, 8]
    listed = [(image, patch) for image, count in enumerate(usable) for patch in range(count)]
    order = torch.randperm(len(listed), generator=torch.Generator().manual_seed(0))[:number].tolist()
    images, patches = choose_patches(torch.tensor(usable), number)
    assert list(zip(images.tolist(), patches.tolist(), strict=True)) == [listed[place] for place in order]


def test_a_draw_holds_no_more_than_was_drawn():
    images, numbers = choose_patches(torch.full((10_000,), 100), 20)
    assert images.untyped_storage().nbytes() + numbers.untyped_storage().nbytes() <= 2 * 20 * 8


@pytest.mark.parametrize('workers', [0, 2])
def test_masks_are_counted_by_workers(tmp_path, workers):
    dataset = MaskedImageDataset(**settings(paint(tmp_path))[0])
    expected = [int((pooled_labels(dataset.mask(i)[None], (4, 4), 3)[1] > 0).sum()) for i in range(len(dataset))]
    assert expected[3] == 0 < min(expected[:3])
    assert count_usable(dataset, (4, 4), workers).tolist() == expected
    (tmp_path / 'masks/train/05.png').unlink()
    with pytest.raises(
        LabelMapError, match=r'^mask \S*05\.png of \S* cannot be read [^\n]*$'
    ):  # in a line, from workers, too
        list(over_masks(dataset.label_counts, len(dataset), workers))


def test_samples_hold_masks_if_asked(tmp_path):
    train, _ = settings(paint(tmp_path))
    plain, masked = MaskedImageDataset(**train), MaskedImageDataset(**train, with_mask=True)
    assert 'mask' not in plain[4]
    assert torch.equal(masked[4]['mask'].long(), plain.mask(4))
    assert masked[4]['mask'].dtype == torch.int16
    many = MaskedImageDataset(**train | dict(num_classes=40_000), with_mask=True)
    assert torch.equal(many[4]['mask'].long(), many.mask(4))


@pytest.mark.parametrize(('count', 'world'), [(10, 1), (10, 3), (2, 5), (12, 4)])
def test_shares_are_even_and_count_every_image_once(monkeypatch, count, world):
    monkeypatch.setattr(patches.dist, 'get_world_size', lambda: world)
    shares = []
    for rank in range(world):
        monkeypatch.setattr(patches.dist, 'get_rank', lambda rank=rank: rank)
        shares.append(even_share(count))
    assert {len(indices) for indices, _ in shares} == {-(-count // world)}
    assert np.concatenate([indices[counts] for indices, counts in shares]).tolist() == list(range(count))
