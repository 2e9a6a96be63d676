"""Views of evaluation images: functions of pixels, seed and index alone, at known places."""

import numpy as np
import torch

from mmadclr.evaluation.adaptation.views import Views, drawn_crop, drawn_patches, mirrored

PLAIN = Views(color=0.0)


def noise(size=32, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, size, size), dtype=np.uint8))


def test_views_are_functions_of_seed_and_index():
    image = noise()
    for view in (drawn_crop, mirrored):
        first = view(image, 7)
        torch.manual_seed(5)
        np.random.default_rng(5).random()
        assert torch.equal(view(image, 7), first)
        assert (first.shape, first.dtype) == ((3, 32, 32), torch.uint8)
        assert not torch.equal(view(image, 8), first)
        assert not torch.equal(view(image, 7, Views(seed=1)), first)
    assert torch.equal(image, noise())  # the image itself is unchanged


def test_crops_lie_in_the_image_and_have_the_area_asked_for():
    rows, columns = np.meshgrid(np.arange(100), np.arange(100), indexing='ij')
    image = torch.from_numpy(np.stack((2 * rows, 2 * columns, 0 * rows))).to(torch.uint8)
    flipped = 0
    for index in range(40):
        crop = drawn_crop(image, index, PLAIN).double()
        height, width = (np.ptp(crop[channel].numpy()) / 200 for channel in (0, 1))
        assert 0.13 < height * width < 0.43
        flipped += bool(crop[1, 0, 0] > crop[1, 0, -1])
    assert 10 < flipped < 30


def test_the_mirror_image_without_colors_is_exact_and_undoes_itself():
    image = noise()
    assert torch.equal(mirrored(image, 3, PLAIN), image.flip(-1))
    changed = mirrored(image, 3).double()
    assert 1 < (changed - image.flip(-1).double()).abs().mean() < 60


def test_drawn_patches_are_distinct_and_in_the_mirror_image_at_the_mirrored_place():
    side = 5
    grid = torch.arange(side * side).view(side, side)
    seen = set()
    for index in range(50):
        places, opposite = drawn_patches(index, side)
        assert len(set(places.tolist())) == 8
        assert torch.equal(grid.flip(1).flatten()[opposite], places)
        seen |= set(places.tolist())
    assert seen == set(range(25))
    assert sorted(drawn_patches(0, 2)[0].tolist()) == [0, 1, 2, 3]
