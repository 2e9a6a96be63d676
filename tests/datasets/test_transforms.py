"""Boxes, crops and the multi-crop sample."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from mmadclr.datasets.transforms import (
    ImageTooSmallError,
    MultiCrop,
    ResizeCentreCrop,
    crop_and_resize,
    random_resized_box,
)

SMALL = dict(global_size=32, local_size=16, query_size=8, num_local=3, num_query=2)


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8))


def sample(image, seed=0, **kwargs):
    return MultiCrop(**(SMALL | kwargs))(dict(image=image, rng=np.random.default_rng(seed), index=0))


def test_crops_equal_published_resized_crops(golden):
    arrays = golden('dino_augment_ops')
    picture = Image.fromarray(arrays['image'])
    keys = [k for k in arrays if k.startswith('resized_crop/') and k.endswith('size')]
    assert keys
    for key in keys:
        name = key.rsplit('/', 1)[0]
        top, left, height, width = arrays[f'{name}/top_left_height_width'].tolist()
        got = crop_and_resize(picture, (left, top, left + width, top + height), int(arrays[key]))
        difference = got.astype(int) - arrays[f'{name}/image'].transpose(2, 0, 1)
        assert abs(difference).max() <= 1


def test_box_statistics_are_those_of_torchvision():
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    picture = torch.zeros(3, 60, 90)
    ours = np.array([random_resized_box(rng, (0, 0, 90, 60), (0.1, 0.8)) for _ in range(5000)])
    get = torchvision.transforms.RandomResizedCrop.get_params
    theirs = np.array([get(picture, (0.1, 0.8), (3 / 4, 4 / 3)) for _ in range(5000)])  # top, left, height, width
    theirs = np.stack((theirs[:, 1], theirs[:, 0], theirs[:, 1] + theirs[:, 3], theirs[:, 0] + theirs[:, 2]), axis=1)
    for statistic in (np.mean, np.std):
        np.testing.assert_allclose(statistic(ours, axis=0), statistic(theirs, axis=0), rtol=0.05, atol=0.5)


@pytest.mark.parametrize('within', [(0, 0, 90, 60), (10, 20, 50, 40), (0, 0, 7, 300)])
def test_boxes_stay_inside_and_keep_their_area(within):
    rng = np.random.default_rng(0)
    left, top, right, bottom = within
    for _ in range(300):
        x0, y0, x1, y1 = random_resized_box(rng, within, (0.2, 0.5))
        assert left <= x0 < x1 <= right
        assert top <= y0 < y1 <= bottom


def test_fallback_is_the_largest_central_box():
    assert random_resized_box(np.random.default_rng(0), (0, 0, 10, 1000), (0.9, 1.0)) == (0, 493, 10, 506)


def test_sample_has_the_declared_contents(image):
    got = sample(image)
    for kind, count, size in (('global', 2, 32), ('local', 3, 16), ('query', 2, 8)):
        assert got[f'{kind}_views'].shape == (count, 3, size, size)
        assert got[f'{kind}_views'].dtype == torch.uint8
        assert got[f'{kind}_boxes'].shape == (count, 4)
        for view, box in zip(got[f'{kind}_views'], got[f'{kind}_boxes'].tolist(), strict=True):
            assert np.array_equal(view.numpy(), crop_and_resize(image, box, size))
    assert got['global_photometric'].shape == (2, 12)
    assert got['local_photometric'].shape == (3, 12)
    assert got['query_photometric'].shape == (1, 2, 12)


@pytest.mark.parametrize('counts', [dict(num_local=0), dict(num_query=0), dict(num_local=0, num_query=0)])
def test_counts_may_be_zero_and_are_independent(image, counts):
    got = sample(image, **counts)
    expected = SMALL | counts
    assert got['local_views'].shape[0] == expected['num_local']
    assert got['query_views'].shape[0] == expected['num_query']
    assert got['query_photometric'].shape == (1, expected['num_query'], 12)
    # Global views are drawn first: they are the same whatever else is asked for.
    assert torch.equal(got['global_views'], sample(image)['global_views'])


def test_per_view_draws_differ_and_shared_ones_are_one(image):
    draws = sample(image, query_photometric='per_view')['query_photometric']
    assert draws.shape == (2, 2, 12)
    assert not torch.equal(draws[0], draws[1])


def test_queries_from_the_view_lie_in_it(image):
    for seed in range(30):
        got = sample(image, seed, query_source='view', global_scale=(0.3, 0.4))
        left, top, right, bottom = got['global_boxes'][0].tolist()
        boxes = got['query_boxes']
        assert (boxes[:, :2] >= torch.tensor([left, top])).all()
        assert (boxes[:, 2:] <= torch.tensor([right, bottom])).all()


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(num_local=-1), 'cannot be negative'),
        (dict(query_source='crop'), "query_source='crop'"),
        (dict(query_photometric='both'), "query_photometric='both'"),
        (dict(local=dict(blurr=1.0)), 'blurr'),
    ],
)
def test_bad_arguments_are_explained(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MultiCrop(**kwargs)


def test_image_smaller_than_a_query_crop():
    tiny = Image.new('RGB', (7, 50))
    with pytest.raises(ImageTooSmallError, match='7x50 pixels are fewer than a query crop of 8'):
        sample(tiny)
    assert sample(tiny, num_query=0)['global_views'].shape == (2, 3, 32, 32)


@pytest.mark.parametrize('size', [(90, 60), (60, 90), (41, 97)])
def test_centre_crop_equals_torchvision(size):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    reference = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize(40, torchvision.transforms.InterpolationMode.BICUBIC),
            torchvision.transforms.CenterCrop(32),
            torchvision.transforms.PILToTensor(),
        ]
    )
    assert torch.equal(ResizeCentreCrop(40, 32)(dict(image=image))['images'], reference(image))


def test_centre_crop_larger_than_the_image_is_explained():
    with pytest.raises(ValueError, match='size=64 must not exceed resize=32'):
        ResizeCentreCrop(32, 64)
