"""Photometric operations in 8-bit arithmetic against Pillow itself and DINO's fixtures, and the drawn recipes."""

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageFilter, ImageOps

from mmadclr.datasets.photometric_recipe import COLUMNS, NO_OP, NUM_PARAMS, PhotometricRecipe, build_recipe
from mmadclr.models.preprocessors import ViewPreprocessor
from mmadclr.models.preprocessors import photometric_ops as ops


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (40, 52, 3), dtype=np.uint8)
    smooth = Image.fromarray(noise[:6, :8]).resize((52, 40), Image.Resampling.BICUBIC)
    return [Image.fromarray(noise), smooth]


def to_batch(pictures):
    return torch.stack([torch.from_numpy(np.array(p)) for p in pictures]).permute(0, 3, 1, 2).float()


AMOUNTS = {'brightness': (0.6, 1.4), 'contrast': (0.6, 1.4), 'saturation': (0.8, 1.2), 'hue': (-0.1, 0.1)}


@pytest.mark.parametrize('name', AMOUNTS)
def test_jitter_equals_pillow_exactly(pictures, name):
    for amount in np.linspace(*AMOUNTS[name], 7):
        got = getattr(ops, f'adjust_{name}')(to_batch(pictures), torch.tensor([amount, amount], dtype=torch.float32))
        expected = to_batch([getattr(TF, f'adjust_{name}')(p, float(np.float32(amount))) for p in pictures])
        assert torch.equal(got, expected), amount


@pytest.mark.parametrize('radius', [0.1, 0.37, 0.8, 1.0, 1.5, 2.0, 3.3])
def test_blur_equals_pillow_exactly(pictures, radius):
    got = ops.gaussian_blur(to_batch(pictures), ops.box_taps(torch.tensor([radius, radius])))
    assert torch.equal(got, to_batch([p.filter(ImageFilter.GaussianBlur(radius)) for p in pictures]))


def test_blur_radii_are_per_image(pictures):
    radii = torch.tensor([0.3, 1.9])
    got = ops.gaussian_blur(to_batch(pictures), ops.box_taps(radii))
    expected = [p.filter(ImageFilter.GaussianBlur(r)) for p, r in zip(pictures, radii.tolist(), strict=True)]
    assert torch.equal(got, to_batch(expected))


def test_gray_and_solarize_equal_pillow_exactly(pictures):
    batch = to_batch(pictures)
    assert torch.equal(ops.to_gray(batch).expand(-1, 3, -1, -1), to_batch([TF.to_grayscale(p, 3) for p in pictures]))
    assert torch.equal(ops.solarize(batch), to_batch([ImageOps.solarize(p) for p in pictures]))


def test_hue_over_the_whole_color_cube():
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    picture = Image.fromarray(cube)
    for shift in (-0.1, 0.033, 0.5):
        got = ops.adjust_hue(to_batch([picture]), torch.tensor([shift]))
        assert torch.equal(got, to_batch([TF.adjust_hue(picture, float(np.float32(shift)))]))


def test_published_operations(golden):
    """DINO's own objects and torchvision, with fixed parameters."""
    arrays = golden('dino_augment_ops')
    batch = torch.from_numpy(arrays['image']).permute(2, 0, 1)[None].float()

    def expected(key):
        return torch.from_numpy(arrays[key]).permute(2, 0, 1)[None].float()

    assert torch.equal(ops.solarize(batch), expected('solarize/image'))
    assert torch.equal(ops.to_gray(batch).expand(-1, 3, -1, -1), expected('gray/image'))
    for key in [k for k in arrays if k.startswith('blur/') and k.endswith('radius')]:
        got = ops.gaussian_blur(batch, ops.box_taps(torch.from_numpy(arrays[key])[None]))
        torch.testing.assert_close(got, expected(key.replace('radius', 'image')), rtol=0, atol=1)
    got = batch
    for name, factor in zip(AMOUNTS, arrays['jitter/brightness_contrast_saturation_hue'], strict=True):
        got = getattr(ops, f'adjust_{name}')(got, torch.tensor([factor], dtype=torch.float32))
    torch.testing.assert_close(got, expected('jitter/image'), rtol=0, atol=1)


VIEWS = ('global_1', 'global_2', 'local')
views = pytest.mark.parametrize('view', VIEWS)


def operations(arrays, view):
    """Operations of a view by name, as read from DINO's constructed transforms."""
    names = [operation['op'] for operation in arrays[view]]
    solarized = ['Solarization'] * (view == 'global_2')
    jitter = ['RandomApply', 'RandomGrayscale', 'GaussianBlur', *solarized]
    assert names == ['RandomResizedCrop', 'RandomHorizontalFlip', *jitter, 'ToTensor', 'Normalize']
    return dict(zip(names, arrays[view], strict=True))


def half_width(bounds, center):
    assert bounds[0] + bounds[1] == pytest.approx(2 * center)
    return pytest.approx(bounds[1] - center)


def published_recipe(found):
    (color,) = found['RandomApply']['of']
    return dict(
        flip=found['RandomHorizontalFlip']['p'],
        jitter=found['RandomApply']['p'],
        **{name: half_width(color[f'{name}_range'], 1) for name in ('brightness', 'contrast', 'saturation')},
        hue=half_width(color['hue_range'], 0),
        gray=found['RandomGrayscale']['p'],
        blur=found['GaussianBlur']['p'],
        blur_radius=(found['GaussianBlur']['radius_min'], found['GaussianBlur']['radius_max']),
        solarize=found.get('Solarization', {'p': 0.0})['p'],
    )


@views
def test_default_recipes_are_the_published_ones(golden, view):
    assert vars(build_recipe(view, None)) == published_recipe(operations(golden('dino_augment'), view))


@views
def test_values_are_normalized_and_inverted_as_published(golden, view):
    found = operations(golden('dino_augment'), view)
    normalize = ViewPreprocessor()
    for name in ('mean', 'std'):
        np.testing.assert_allclose(getattr(normalize, name).flatten() / 255, found['Normalize'][name], rtol=0, atol=1e-7)
    if 'Solarization' in found:
        levels = torch.arange(256.0)
        threshold = found['Solarization']['threshold']
        assert torch.equal(ops.solarize(levels), torch.where(levels >= threshold, 255 - levels, levels))


def test_draws_follow_the_recipe():
    recipe = build_recipe('global_2', None)
    rng = np.random.default_rng(0)
    draws = dict(zip(COLUMNS, np.stack([recipe.draw(rng) for _ in range(4000)]).T, strict=True))
    for name, share in (('flip', 0.5), ('gray', 0.2), ('solarize', 0.2)):
        assert draws[name].mean() == pytest.approx(share, abs=0.03), name
    assert (draws['order_0'] != NO_OP).mean() == pytest.approx(0.8, abs=0.03)
    assert (draws['blur_radius'] > 0).mean() == pytest.approx(0.1, abs=0.02)
    for name, (low, high) in AMOUNTS.items():
        assert low <= draws[name].min() <= low + 0.01 * (high - low) + 1e-3
        assert high - 0.01 * (high - low) - 1e-3 <= draws[name].max() <= high + 1e-6
    orders = np.stack([draws[f'order_{i}'] for i in range(4)], axis=1)
    orders = orders[orders[:, 0] != NO_OP]
    assert len({tuple(row) for row in orders}) == 24


def test_draw_has_the_declared_length():
    assert PhotometricRecipe().draw(np.random.default_rng(0)).shape == (NUM_PARAMS,)


def test_jitter_of_zero_width_is_left_out():
    row = PhotometricRecipe(jitter=1.0, hue=0.0, contrast=0.0).draw(np.random.default_rng(0))
    assert sorted(row[1:5].tolist()) == [NO_OP, NO_OP, 0.0, 2.0]


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [(dict(flip=1.5), 'flip=1.5'), (dict(hue=0.6), 'hue=0.6'), (dict(grey=0.2), 'unknown key grey')],
)
def test_bad_recipes_are_explained(overrides, message):
    with pytest.raises(ValueError, match=message):
        build_recipe('local', overrides)
