"""Inputs of the protocols against torchvision's transforms, as the published codes compose them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from mmadclr.datasets.benchmarks.types import LabeledImage, SegmentationBenchmark
from mmadclr.evaluation.suite.forms import (
    Form,
    HummingbirdAugmentation,
    NecoAugmentation,
    labels_by_pillow,
    labels_by_torch,
    read_image,
    read_labels,
    square_input,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.255)


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (53, 71, 3)).astype(np.uint8))


@pytest.fixture
def labels():
    return np.random.default_rng(1).integers(0, 256, (53, 71)).astype(np.uint8)


@pytest.mark.parametrize('resize', ['bilinear', 'bicubic'])
def test_square_input_equals_torchvision(resize, image):
    expected = T.Compose([T.Resize((32, 32), InterpolationMode(resize)), T.ToTensor(), T.Normalize(MEAN, STD)])(image)
    torch.testing.assert_close(square_input(image, Form(32, resize, MEAN, STD)), expected)


def test_labels_equal_torchvision(labels):
    by_pillow = T.Resize((24, 24), InterpolationMode.NEAREST)(Image.fromarray(labels))
    assert np.array_equal(labels_by_pillow(labels, 24).numpy(), np.array(by_pillow))
    by_torch = TF.resize(torch.from_numpy(labels)[None], [24, 24], InterpolationMode.NEAREST)[0]
    assert torch.equal(labels_by_torch(labels, 24), by_torch)
    assert not torch.equal(labels_by_torch(labels, 24), labels_by_pillow(labels, 24))


@pytest.mark.parametrize('seed', range(8))
def test_hummingbird_augmentation_equals_torchvision(seed, image, labels):
    torch.manual_seed(seed)
    found, masks = HummingbirdAugmentation(Form(32, 'bilinear', MEAN, STD))(image, labels)
    torch.manual_seed(seed)
    jitters = [dict(brightness=0.1), dict(contrast=0.1), dict(saturation=0.1), dict(hue=0.1)]
    steps = [T.RandomApply([T.ColorJitter(**each)], p=0.5) for each in jitters]
    pixels = T.Compose([*steps, T.ToTensor(), T.Normalize(MEAN, STD)])(image)
    box = T.RandomResizedCrop.get_params(pixels, [0.5, 2.0], [3 / 4, 4 / 3])
    expected = TF.resized_crop(pixels, *box, [32, 32], InterpolationMode.BILINEAR, antialias=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    nearest = TF.resized_crop(torch.from_numpy(labels)[None], *box, [32, 32], InterpolationMode.NEAREST)[0]
    assert torch.equal(masks, nearest)


def test_neco_augmentation_crops_and_flips_both(image, labels):
    form, flips = Form(32, 'bilinear', MEAN, STD), 0
    for seed in range(20):
        torch.manual_seed(seed)
        found, masks = NecoAugmentation(form)(image, labels)
        torch.manual_seed(seed)
        box = T.RandomResizedCrop.get_params(image, [0.8, 1.0], [3 / 4, 4 / 3])
        assert box[2] * box[3] >= 0.75 * 53 * 71
        pixels = square_input(TF.crop(image, *box), form)
        crop = labels_by_pillow(np.array(TF.crop(Image.fromarray(labels), *box)), 32)
        is_flipped = not torch.allclose(found, pixels)
        flips += is_flipped
        torch.testing.assert_close(found, pixels.flip(-1) if is_flipped else pixels)
        assert torch.equal(masks, crop.flip(-1) if is_flipped else crop)
    assert 4 < flips < 16


def test_files_that_cannot_be_used_are_named(tmp_path, labels):
    (tmp_path / 'a.jpg').write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'image .*a\.jpg cannot be read \(not an image\)$'):
        read_image(str(tmp_path / 'a.jpg'))
    with pytest.raises(FileNotFoundError, match=r'b\.jpg'):
        read_image(str(tmp_path / 'b.jpg'))
    benchmark = SegmentationBenchmark('folder', ('a',), [], [], lambda item: labels, None)
    with pytest.raises(ValueError, match=r'm\.png: 71 x 53 pixels, but its image i\.jpg has 70 x 53'):
        read_labels(benchmark, LabeledImage('a', 'i.jpg', 'm.png'), (53, 70))
