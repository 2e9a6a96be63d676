"""Training crops and test images against the transforms of mmsegmentation, given the same random numbers."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmadclr.evaluation.suite import segmentor_forms
from mmadclr.evaluation.suite.segmentor_forms import (
    CropForm,
    Distortion,
    SegmentorAugmentation,
    as_square,
    central_crop,
    crop_corner,
    distorted,
    draw_distortion,
    whole_input,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FORM = CropForm(32, 0.75, MEAN, STD)
SIZES = [(53, 71), (90, 41), (20, 200), (32, 32)]


def scene(height, width, seed=0):
    """Image and label map with large areas and void."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 4, (height // 8 + 1, width // 8 + 1)), np.ones((8, 8)))[:height, :width].astype(
        np.uint8
    )
    labels[:3] = 255
    return Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8)), labels


def transforms():
    return pytest.importorskip('mmseg.datasets.transforms.transforms')


def resized(image, labels, scale):
    """As mmcv's ``Resize(scale, keep_ratio=True)`` does it: BGR pixels and labels."""
    processing = pytest.importorskip('mmcv.transforms.processing')
    results = dict(img=np.asarray(image)[:, :, ::-1].copy(), gt_seg_map=labels, seg_fields=['gt_seg_map'])
    found = processing.Resize(scale, keep_ratio=True).transform(results)
    return found['img'], found['gt_seg_map']


def as_input(bgr):
    """SegDataPreProcessor's normalization of BGR pixels from 0 to 255."""
    values = bgr[:, :, ::-1].astype(np.float64)
    values = (values - 255 * np.array(MEAN)) / (255 * np.array(STD))
    return torch.tensor(values.transpose(2, 0, 1), dtype=torch.float32)


@pytest.mark.parametrize('size', SIZES)
def test_whole_images_are_those_of_mmcv(size):
    image, labels = scene(*size)
    expected, _ = resized(image, labels, (128, 32))
    found = whole_input(image, FORM)
    torch.testing.assert_close(found, as_input(expected), rtol=0, atol=1e-5)
    assert min(found.shape[1:]) == (32 if max(size) <= 4 * min(size) else 13)


class Replayed:
    """numpy's random functions as mmseg calls them, with given results."""

    def __init__(self, *results):
        self.results = list(results)

    def randint(self, low, high=None):
        value = self.results.pop(0)
        assert (0 if high is None else low) <= value < (low if high is None else high)
        return value

    def uniform(self, low, high):
        value = self.results.pop(0)
        assert low <= value <= high
        return value


@pytest.mark.parametrize(
    ('how', 'draws'),
    [
        (Distortion(), [0, 0, 0, 0, 0]),
        (Distortion(brightness=-31.5), [1, -31.5, 0, 0, 0, 0]),
        (Distortion(contrast=1.4, contrast_first=True), [0, 1, 1, 1.4, 0, 0]),
        (Distortion(contrast=0.55), [0, 0, 0, 0, 1, 0.55]),
        (Distortion(saturation=1.45), [0, 0, 1, 1.45, 0, 0]),
        (Distortion(hue=-18), [0, 0, 0, 1, -18, 0]),
        (Distortion(20.25, 1.3, 0.6, 17, True), [1, 20.25, 1, 1, 1.3, 1, 0.6, 1, 17]),
        (Distortion(20.25, 1.3, 0.6, 17, False), [1, 20.25, 0, 1, 0.6, 1, 17, 1, 1.3]),
    ],
)
def test_colors_are_those_of_mmseg(how, draws, monkeypatch):
    module, image = transforms(), np.asarray(scene(40, 30)[0])
    replayed = Replayed(*draws)
    monkeypatch.setattr(module, 'random', replayed)
    expected = module.PhotoMetricDistortion().transform(dict(img=image[:, :, ::-1].copy()))['img'][:, :, ::-1]
    assert not replayed.results
    found = distorted(image, how)
    assert np.array_equal(found, expected)
    assert np.array_equal(found, image) == (how == Distortion())


def test_distortions_are_drawn_from_their_ranges():
    torch.manual_seed(0)
    drawn = [draw_distortion() for _ in range(4000)]
    ranges = dict(brightness=(-32, 32), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-18, 17))
    for name, (low, high) in ranges.items():
        values = [getattr(each, name) for each in drawn if getattr(each, name) is not None]
        assert 0.46 < len(values) / len(drawn) < 0.54, name
        assert low <= min(values) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < max(values) <= high
    assert 0.46 < np.mean([each.contrast_first for each in drawn]) < 0.54


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('most', [0.4, 0.75, 1.0])
def test_crops_are_those_of_mmseg(seed, most, monkeypatch):
    module = transforms()
    image, labels = scene(64, 90, seed)
    corners = np.random.default_rng(seed).integers(0, (33, 59), (11, 2)).ravel().tolist()
    replayed = Replayed(*corners)
    monkeypatch.setattr(module.np.random, 'randint', replayed.randint)
    results = dict(img=np.asarray(image), gt_seg_map=labels, seg_fields=['gt_seg_map'])
    expected = module.RandomCrop((32, 32), cat_max_ratio=most).transform(results)
    ours = Replayed(*corners)
    monkeypatch.setattr(segmentor_forms, 'integer', ours.randint)
    top, left = crop_corner(labels, 32, most)
    assert np.array_equal(np.asarray(image)[top : top + 32, left : left + 32], expected['img'])
    assert len(ours.results) == len(replayed.results)


@pytest.mark.parametrize('size', SIZES)
def test_augmented_crops_are_made_of_these_steps(size, monkeypatch):
    image, labels = scene(*size)
    flips = 0
    for seed in range(12):
        scale = 0.5 + 0.125 * seed
        monkeypatch.setattr(segmentor_forms, 'uniform', lambda low, high, scale=scale: scale)
        monkeypatch.setattr(segmentor_forms, 'draw_distortion', Distortion)
        monkeypatch.setattr(segmentor_forms, 'crop_corner', lambda labels, size, most: (0, max(labels.shape[1] - size, 0)))
        torch.manual_seed(seed)
        found, masks = SegmentorAugmentation(FORM)(image, labels)
        bgr, small = resized(image, labels, (int(128 * scale), int(32 * scale)))
        left = max(small.shape[1] - 32, 0)
        bgr, small = bgr[:32, left : left + 32], small[:32, left : left + 32]
        torch.manual_seed(seed)
        if torch.rand(()) < 0.5:
            bgr, small, flips = bgr[:, ::-1], small[:, ::-1], flips + 1
        height, width = small.shape
        assert found.shape == (3, 32, 32)
        torch.testing.assert_close(found[:, :height, :width], as_input(bgr), rtol=0, atol=1e-5)
        assert not found[:, height:].any()
        assert not found[:, :, width:].any()
        assert np.array_equal(masks[:height, :width], small)
        assert (masks[height:] == 255).all()
        assert (masks[:, width:] == 255).all()
    assert 2 < flips < 10


def test_scales_are_drawn_from_a_half_to_two(monkeypatch):
    image, labels = scene(40, 40)
    seen = []

    def noted(pixels, labels, short, longest):
        seen.append((short, longest))
        return pixels, labels

    monkeypatch.setattr(segmentor_forms, 'both_resized', noted)
    monkeypatch.setattr(segmentor_forms, 'as_square', lambda *rest: rest)
    torch.manual_seed(0)
    for _ in range(300):
        SegmentorAugmentation(CropForm(100, 1.0, MEAN, STD))(np.asarray(image), labels)
    shorts = [short for short, _ in seen]
    assert 50 <= min(shorts) < 54
    assert 196 < max(shorts) < 200
    assert all(abs(longest - 4 * short) < 4 for short, longest in seen)


@pytest.mark.parametrize('size', SIZES)
def test_without_augmentation_the_center_is_cropped(size):
    image, labels = scene(*size)
    found, masks = central_crop(image, labels, FORM)
    bgr, small = resized(image, labels, (128, 32))
    top, left = (max(side - 32, 0) // 2 for side in small.shape)
    small = small[top : top + 32, left : left + 32]
    assert np.array_equal(masks[: small.shape[0], : small.shape[1]], small)
    expected = as_input(bgr[top : top + 32, left : left + 32])
    torch.testing.assert_close(found[:, : small.shape[0], : small.shape[1]], expected, rtol=0, atol=1e-5)


def test_squares_keep_what_fits():
    pixels, labels = np.full((5, 7, 3), 9, np.uint8), np.ones((5, 7), np.uint8)
    found, masks = as_square(pixels, labels, CropForm(8, 1.0, MEAN, STD))
    assert (found != 0).any(dim=0).sum() == (masks == 1).sum() == 35
