"""Photometric operations in single precision: slow references, and how far from Pillow's 8-bit arithmetic they are."""

import colorsys

import pytest
import torch
from photometric import draw_batch

from mmadclr.models.preprocessors import photometric_float_ops as ops
from mmadclr.models.preprocessors import photometric_ops as exact


@pytest.fixture(scope='module')
def crops():
    """uint8 values as float: 40 crops with the textures of photographs, and 8 of noise."""
    views = draw_batch(4)['local_views'].flatten(0, 1).float()
    noise = torch.randint(0, 256, (8, *views.shape[1:]), generator=torch.Generator().manual_seed(0))
    return torch.cat((views, noise.float()))


def gray_levels(name, crops, values):
    """Absolute difference from the 8-bit operation in gray levels: mean, 99.9th percentile, maximum."""
    args = () if values is None else (values,)
    difference = getattr(ops, name)(crops.clone(), *args) - getattr(exact, name)(crops.clone(), *args)
    levels = difference.abs().flatten().sort().values
    return levels.mean().item(), levels[int(0.999 * len(levels))].item(), levels[-1].item()


# Pillow truncates after brightness, contrast and saturation (half a level on average), rounds the mean of the contrast and
# the gray of the saturation, and knows 256 hues and saturations: a step of hue is up to 6 levels.
BOUNDS = {
    'adjust_brightness': ((0.6, 1.4), (0.5, 1.0, 1.0)),
    'adjust_contrast': ((0.6, 1.4), (0.5, 1.2, 1.2)),
    'adjust_saturation': ((0.8, 1.2), (0.5, 1.1, 1.1)),
    'adjust_hue': ((-0.1, 0.1), (0.5, 9.0, 17.0)),
    'to_gray': (None, (0.26, 0.51, 0.51)),
    'solarize': (None, (0.0, 0.0, 0.0)),
}


@pytest.mark.parametrize('name', BOUNDS)
def test_difference_from_8_bit_arithmetic(crops, name):
    amounts, bounds = BOUNDS[name]
    found = gray_levels(name, crops, None if amounts is None else torch.linspace(*amounts, len(crops)))
    assert all(value <= bound for value, bound in zip(found, bounds, strict=True)), found


def test_blur_difference_from_8_bit_arithmetic(crops):
    """Pillow rounds after each of six passes."""
    found = gray_levels('gaussian_blur', crops, exact.box_taps(torch.linspace(0.1, 2, len(crops))))
    assert all(value <= bound for value, bound in zip(found, (0.45, 2.4, 3.0), strict=True)), found


@pytest.mark.parametrize('shift', [-0.5, -0.1, 0.0, 0.07, 0.37, 0.5])
def test_hue_is_a_turn_in_hsv(shift):
    """Against the standard library, over a cube of colors with all ties of channels."""
    levels = torch.linspace(0, 1, 9)
    colors = torch.cartesian_prod(levels, levels, levels)

    def turned(color):
        hue, saturation, value = colorsys.rgb_to_hsv(*color)
        return colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)

    expected = torch.tensor([turned(color) for color in colors.tolist()])
    got = ops.adjust_hue(255 * colors.T.reshape(1, 3, 27, 27), torch.tensor([shift])).reshape(3, -1).T / 255
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_hue_leaves_gray_and_nearly_gray_pixels():
    pixels = torch.linspace(0, 255, 64).reshape(1, 1, 8, 8).repeat(1, 3, 1, 1)
    torch.testing.assert_close(ops.adjust_hue(pixels.clone(), torch.tensor([0.3])), pixels, rtol=0, atol=1e-4)
    pixels[:, 0] += 1e-5
    torch.testing.assert_close(ops.adjust_hue(pixels.clone(), torch.tensor([0.3])), pixels, rtol=0, atol=2e-4)


def test_contrast_and_saturation_mean_what_they_say(crops):
    """Factor 0 leaves the mean gray, and the gray of each pixel; factor 1 leaves all."""
    zero, one = torch.zeros(len(crops)), torch.ones(len(crops))
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    luma = (crops * weights).sum(1, keepdim=True)
    flat = luma.mean(dim=(2, 3), keepdim=True).expand_as(crops)
    torch.testing.assert_close(ops.adjust_contrast(crops.clone(), zero), flat, rtol=0, atol=1e-2)
    torch.testing.assert_close(ops.adjust_saturation(crops.clone(), zero), luma.expand_as(crops), rtol=0, atol=1e-2)
    for name in ('brightness', 'contrast', 'saturation'):
        torch.testing.assert_close(getattr(ops, f'adjust_{name}')(crops.clone(), one), crops, rtol=0, atol=1e-4)


def test_operations_cut_to_the_range_of_pixels(crops):
    for name in ('brightness', 'contrast', 'saturation'):
        got = getattr(ops, f'adjust_{name}')(crops.clone(), torch.full((len(crops),), 3.0))
        assert (got.min() >= 0) & (got.max() == 255), name


def slow_blur(plane, taps):
    """Three box blurs of each axis in float64, pixel by pixel, reading the border pixel beyond the border."""
    for _ in range(2):
        for _ in range(3):
            last, reach = len(plane) - 1, len(taps) // 2
            rows = [
                sum(taps[reach + d] * plane[min(max(i + d, 0), last)] for d in range(-reach, reach + 1))
                for i in range(last + 1)
            ]
            plane = torch.stack(rows)
        plane = plane.T
    return plane


@pytest.mark.parametrize('shape', [(7, 5), (16, 16), (40, 67)])  # shorter than the kernel; about; and several tiles long
def test_blur_equals_pass_by_pass(shape):
    images = 255 * torch.rand(3, 3, *shape, generator=torch.Generator().manual_seed(0))
    taps = exact.box_taps(torch.tensor([0.3, 1.1, 3.3]))
    got = ops.gaussian_blur(images.clone(), taps)
    for image, result, row in zip(images.double(), got, taps.tolist(), strict=True):
        expected = torch.stack([slow_blur(plane, row) for plane in image])
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-3)


def test_blur_in_one_tile_is_the_blur_in_many(crops, monkeypatch):
    """A GPU takes the whole axis at once."""
    taps = exact.box_taps(torch.linspace(0.1, 2, len(crops)))
    tiled = ops.gaussian_blur(crops.clone(), taps)
    monkeypatch.setattr(ops, 'TILE', 1000)
    torch.testing.assert_close(ops.gaussian_blur(crops.clone(), taps), tiled, rtol=0, atol=1e-3)
