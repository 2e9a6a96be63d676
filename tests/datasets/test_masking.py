"""Masks: statistics of the published sampler, invariants, and the way through MultiCrop and the data set to the model."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmadclr.datasets import MultiCrop, ResizeCenterCrop
from mmadclr.datasets.image_dataset import ImageDataset
from mmadclr.datasets.loading import collate_samples
from mmadclr.datasets.masking import BlockMasking, RandomMasking
from mmadclr.datasets.samplers import SampleKey
from mmadclr.models.preprocessors import ViewPreprocessor

DRAWS = 2000
SMALL = dict(global_size=32, local_size=16, num_local=1)
MASK = dict(type='BlockMasking', patch_size=8)


def neighbor_rate(masks, axis):
    """Given a masked patch, how often the next one along the axis is masked too."""
    first = np.delete(masks, -1, axis)
    return (first & np.delete(masks, 0, axis)).sum() / first.sum()


@pytest.mark.golden_names('name', 'ibot_masks', '(.+)/draws')
def test_statistics_are_those_of_the_published_sampler(golden, name):
    """With the margins of the fixture's description, which are for 2000 draws."""
    arrays = golden('ibot_masks')
    case = arrays.below(f'{name}/')
    noise = np.sqrt((1 / case['draws'] + 1 / DRAWS) * 1000)
    masking = (BlockMasking if case['block'] else RandomMasking)(ratio=case['pred_ratio'], spread=case['pred_ratio_var'])
    masks = masking.draw(np.random.default_rng(0), DRAWS, 16 * int(case['grid']))
    shares = masks.mean(axis=(1, 2))
    standard_error = case['ratio_std'] * np.sqrt(1 / case['draws'] + 1 / DRAWS)
    assert abs(shares.mean() - case['ratio_mean']) < 3.5 * standard_error
    assert shares.std() == pytest.approx(case['ratio_std'], rel=0, abs=0.006 * noise)
    histogram, _ = np.histogram(shares, arrays['histogram_bin_edges'])
    np.testing.assert_allclose(histogram / DRAWS, case['ratio_histogram'] / case['draws'], rtol=0, atol=0.05 * noise)
    assert (shares == 0).mean() == pytest.approx(case['fraction_without_mask'], rel=0, abs=0.05 * noise)
    for level, quantile in zip(arrays['quantile_levels'], case['ratio_quantiles'], strict=True):
        # Shares are whole patches: as many draws as the level says are at most one patch above the quantile.
        step = 1 / case['grid'] ** 2
        assert (shares < quantile - step).mean() <= level + 0.05 * noise
        assert (shares < quantile + step).mean() >= level - 0.05 * noise
    for axis, key in ((2, 'right_neighbour_masked'), (1, 'lower_neighbour_masked')):
        assert neighbor_rate(masks, axis) == pytest.approx(float(case[key]), rel=0, abs=0.015 * noise), key
    np.testing.assert_allclose(masks.mean(axis=0), case['mask_probability_map'], rtol=0, atol=0.08 * noise)


@pytest.mark.parametrize('ratio', [0.0, 0.01, 0.35, 1.0])
def test_random_masks_have_exactly_the_wanted_number(ratio):
    masks = RandomMasking(ratio=ratio, spread=0.0).draw(np.random.default_rng(0), 20, 160)
    assert (masks.sum(axis=(1, 2)) == int(ratio * 100)).all()


@pytest.mark.parametrize('size', [16, 32, 48, 224])
@pytest.mark.parametrize('ratio', [0.0, 0.3, 0.8, 1.0])
def test_block_masks_never_exceed_what_is_wanted(size, ratio):
    masks = BlockMasking(ratio=ratio, spread=0.0).draw(np.random.default_rng(0), 50, size)
    assert masks.shape == (50, size // 16, size // 16)
    assert (masks.sum(axis=(1, 2)) <= ratio * (size // 16) ** 2).all()
    assert masks.any() == (ratio > 0 and size > 16)  # a block is smaller than the view: one patch cannot be masked


def test_one_block_is_a_rectangle():
    masking = BlockMasking(ratio=0.3, spread=0.0)
    for seed in range(30):
        block = masking.draw_block(np.random.default_rng(seed), np.zeros((14, 14), bool), 58.8)
        height, width = (part.stop - part.start for part in block)
        assert 0.25 < height / width < 4
        assert 12 <= height * width <= 58.8


# --- from the sample's generator to the model ------------------------------------------------------------------------------


def sample(seed=0, epoch=None, transform=MultiCrop, **kwargs):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    about = {} if epoch is None else dict(epoch=epoch)
    return transform(**kwargs)(dict(image=image, rng=np.random.default_rng(seed), **about))


def test_a_sample_has_a_mask_for_each_global_view_and_the_crops_it_had_without():
    plain, masked = sample(**SMALL), sample(**SMALL, mask=MASK | dict(ratio=0.5, spread=0.0))
    assert masked['masks'].shape == (2, 4, 4)
    assert masked['masks'].dtype == torch.bool
    assert not torch.equal(*masked.pop('masks'))
    assert masked.keys() == plain.keys()
    assert all(torch.equal(masked[key], plain[key]) for key in plain)


def test_masks_begin_with_their_epoch():
    mask = MASK | dict(ratio=0.5, spread=0.0, start_epoch=3)
    assert not sample(epoch=2, **SMALL, mask=mask)['masks'].any()
    assert sample(epoch=3, **SMALL, mask=mask)['masks'].any(dim=(1, 2)).all()
    assert 'epoch' not in sample(epoch=3, **SMALL, mask=mask)
    assert 'epoch' not in sample(epoch=3, transform=ResizeCenterCrop, resize=32, size=32)
    with pytest.raises(ValueError, match='start_epoch=3 requires a data set that passes the epoch'):
        sample(**SMALL, mask=mask)


def test_the_key_of_a_sample_determines_its_masks(image_folder):
    dataset = ImageDataset(str(image_folder(6)), dict(type='MultiCrop', **SMALL, mask=MASK | dict(ratio=0.5, spread=0.2)))
    keys = [SampleKey(0, 1, index) for index in range(6)]
    batch = collate_samples(dataset.__getitems__(keys))
    again = collate_samples([dataset[key] for key in reversed(keys)])
    assert batch['masks'].shape == (6, 2, 4, 4)
    assert torch.equal(batch['masks'], again['masks'].flip(0))
    assert not torch.equal(batch['masks'], collate_samples([dataset[SampleKey(0, 2, i)] for i in range(6)])['masks'])
    views = ViewPreprocessor()(batch, True)['views']
    assert torch.equal(views['masks'].hidden, batch['masks'])


def test_without_masking_nothing_is_passed_on(image_folder):
    dataset = ImageDataset(str(image_folder(2)), dict(type='MultiCrop', **SMALL))
    assert 'masks' not in ViewPreprocessor()(collate_samples(dataset.__getitems__([0, 1])), True)['views']


@pytest.mark.parametrize(
    ('mask', 'message'),
    [
        (dict(ratio=1.2, spread=0.0), r'BlockMasking: ratio=1.2 with spread=0.0: .* must be in \[0, 1\]'),
        (dict(ratio=-0.1, spread=0.0), r'must be in \[0, 1\]'),
        (dict(ratio=(0.0, 0.3), spread=(0.0, 0.4)), r'must be in \[0, 1\]'),
        (dict(ratio=0.9, spread=0.2), r'must be in \[0, 1\]'),
        (dict(ratio=0.5, spread=-0.1), r'must be in \[0, 1\]'),
        (dict(ratio=(0.0, 0.3), spread=0.0), 'must have the same length'),
        (dict(ratio=(), spread=()), 'must have the same length'),
        (dict(start_epoch=-1), 'start_epoch=-1 must not be negative'),
        (dict(aspect=0.0), r'aspect=0.0, .* must be in \(0, 1\]'),
        (dict(ratio=0.0, spread=0.0), r'BlockMasking: ratio=\[0.0\] with spread=\[0.0\] masks none of the 4 x 4 patches'),
        (
            dict(type='RandomMasking', ratio=0.05, spread=0.0),
            r'RandomMasking: ratio=\[0.05\] .* masks none of the 4 x 4 patches',
        ),
        (dict(patch_size=16, ratio=(0.0, 0.2), spread=(0.0, 0.04)), r'spread=\[0.0, 0.04\] masks none of the 2 x 2 patches'),
        (dict(patch_size=32, ratio=1.0, spread=0.0), r'masks none of the 1 x 1 patches'),
        (dict(patch_size=12), 'the view size 32 must be a multiple of patch_size=12'),
    ],
)
def test_bad_arguments_are_explained(mask, message):
    with pytest.raises(ValueError, match=message):
        MultiCrop(**SMALL, mask=MASK | mask)


@pytest.mark.parametrize(
    'mask',
    [
        dict(ratio=(0.0, 0.3), spread=(0.0, 0.2)),  # one of the two shares may be none
        dict(ratio=1 / 16, spread=0.0, type='RandomMasking'),
        dict(ratio=0.0625, spread=0.0),
        dict(patch_size=16, ratio=(0.0, 0.25), spread=(0.0, 0.2)),
        dict(patch_size=32, ratio=1.0, spread=0.0, type='RandomMasking'),
    ],
)
def test_masks_that_are_let_through_hide_patches(mask):
    masking = MultiCrop(**SMALL, mask=MASK | mask).masking
    assert masking.draw(np.random.default_rng(0), 200, SMALL['global_size']).any()
