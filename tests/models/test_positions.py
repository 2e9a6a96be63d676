"""Places of crops in views: closed forms, flips worked out with pixels, the sine-cosine code term by term."""

import math

import pytest
import torch

from mmadclr.datasets.photometric_recipe import COLUMNS, NUM_PARAMS
from mmadclr.models.positions import boxes_in_views, grid_places, patch_places, sincos_code
from mmadclr.models.preprocessors import QueryBoxPreprocessor


def test_code_term_by_term():
    places = torch.tensor([[0.0, 0.0], [2.5, -1.0]], dtype=torch.float64)
    got = sincos_code(places, 12)
    for place, code in zip(places.tolist(), got, strict=True):
        for axis, value in enumerate(place):
            for i in range(3):
                angle = value / 10000 ** (i / 3)
                assert code[6 * axis + i].item() == pytest.approx(math.sin(angle), abs=1e-12)
                assert code[6 * axis + 3 + i].item() == pytest.approx(math.cos(angle), abs=1e-12)
    with pytest.raises(ValueError, match='the number of channels 14 must be a multiple of 4'):
        sincos_code(places, 14)


def test_grid_places_run_along_rows():
    assert grid_places(2, 3).tolist() == [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]


def published_places(box, view, per_side, grid):
    """Offsets and scales as the released code forms them, without flips; x before y, row by row."""
    places = []
    for i in range(per_side):
        for j in range(per_side):
            place = []
            for k, axis in ((j, 0), (i, 1)):
                unit = (view[axis + 2] - view[axis]) / grid
                scale = (box[axis + 2] - box[axis]) / per_side / unit
                place.append((box[axis] - view[axis]) / unit + k * scale)
            places.append(place)
    return torch.tensor(places)


@pytest.mark.parametrize('box', [(10, 20, 58, 44), (0, 0, 30, 12), (90, 70, 140, 120)])
def test_places_are_the_published_ones_without_flips(box):
    view = (20, 10, 132, 94)
    boxes = boxes_in_views(torch.tensor([[box]]), torch.tensor([[view]]), torch.zeros(1, 1, 1, 2))
    got = patch_places(boxes, per_side=3, grid=(14, 14))
    torch.testing.assert_close(got[0, 0, 0], published_places(box, view, 3, 14), rtol=0, atol=1e-4)


@pytest.mark.parametrize('view_flipped', [False, True])
@pytest.mark.parametrize('crop_flipped', [False, True])
def test_flips_match_pixels(view_flipped, crop_flipped):
    """An image whose patches are numbered: every patch of the crop is found in the view at the place it is given."""
    numbers = torch.arange(8 * 8).view(8, 8)  # one number a patch
    view, crop = numbers[1:7, 2:8], numbers[2:5, 3:6]
    view, crop = view.flip(1) if view_flipped else view, crop.flip(1) if crop_flipped else crop
    side = 10  # pixels of a patch
    boxes = boxes_in_views(
        side * torch.tensor([[[3, 2, 6, 5]]]),
        side * torch.tensor([[[2, 1, 8, 7]]]),
        torch.tensor([view_flipped, crop_flipped]).view(1, 1, 1, 2),
    )
    places = patch_places(boxes, per_side=3, grid=(6, 6))[0, 0, 0]
    torch.testing.assert_close(places, places.round(), rtol=0, atol=1e-5)
    columns, rows = places.round().long().unbind(-1)
    assert torch.equal(view[rows, columns], crop.flatten())


@pytest.mark.parametrize('flips', [True, False])
def test_preprocessor_takes_boxes_and_flips_from_the_samples(flips):
    preprocessor = QueryBoxPreprocessor(flips=flips)
    params = {kind: torch.zeros(2, n, NUM_PARAMS) for kind, n in (('global', 2), ('local', 0), ('query', 3))}
    for values in params.values():
        values[..., 1:5] = -1  # no jitter
    params['global'][0, 1, COLUMNS.index('flip')] = 1
    data = {f'{kind}_photometric': values for kind, values in params.items()}
    data['query_photometric'] = params['query'].unsqueeze(1)
    for kind, size in (('global', 16), ('local', 8), ('query', 8)):
        data[f'{kind}_views'] = torch.zeros(2, params[kind].shape[1], 3, size, size, dtype=torch.uint8)
    data['global_boxes'] = torch.tensor([[0, 0, 100, 100], [50, 0, 150, 200]]).expand(2, -1, -1)
    data['query_boxes'] = torch.tensor([[50, 50, 75, 75]]).expand(2, 3, -1)
    boxes = preprocessor(data, True)['views']['query_boxes']
    assert boxes.shape == (2, 2, 3, 4)
    first, second = [0.5, 0.5, 0.75, 0.75], [0.0, 0.25, 0.25, 0.375]
    mirrored = [1.0, 0.25, 0.75, 0.375] if flips else second
    for image, expected in enumerate(([first, mirrored], [first, second])):
        torch.testing.assert_close(boxes[image], torch.tensor(expected)[:, None].expand(-1, 3, -1))
