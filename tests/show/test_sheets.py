import numpy as np
import pytest
import torch
from PIL import Image

from mmadclr.show.sheets import GAP, HEIGHT, crops_sheet, features_sheet

MEAN, STD = torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1), torch.tensor([2.0, 4.0, 8.0]).view(3, 1, 1)


def make(*shape):
    """uint8 crops, and the same normalized."""
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.uint8)
    return pixels, (pixels - MEAN) / STD


def test_every_crop_is_in_its_place():
    """Against a loop that pastes crop by crop."""
    (g, global_views), (l_, local_views), (q, query_crops) = (
        make(3, 2, 3, 12, 12),
        make(3, 4, 3, 6, 8),
        make(3, 2, 2, 3, 5, 5),
    )
    views = dict(global_views=global_views, local_views=local_views, query_crops=query_crops, masks=None)
    sheet = crops_sheet(views, MEAN, STD, 2)
    rows = []
    for row in range(2):
        crops = [*g[row], *l_[row], *q[row].flatten(0, 1)]
        wanted = np.full((12 + GAP, sum(crop.shape[-1] + GAP for crop in crops), 3), 255, np.uint8)
        left = 0
        for crop in crops:
            height, width = crop.shape[-2:]
            wanted[:height, left : left + width] = crop.permute(1, 2, 0).numpy()
            left += width + GAP
        rows.append(wanted)
    np.testing.assert_array_equal(sheet, np.concatenate(rows))
    assert sheet.dtype == np.uint8


@pytest.mark.parametrize('missing', ['absent', 'empty'])
def test_methods_without_local_views_and_queries(missing):
    pixels, global_views = make(1, 2, 3, 6, 6)
    more = (
        {}
        if missing == 'absent'
        else dict(local_views=torch.empty(1, 0, 3, 4, 4), query_crops=torch.empty(1, 2, 0, 3, 4, 4))
    )
    sheet = crops_sheet(dict(global_views=global_views, **more), MEAN, STD, 8)
    assert sheet.shape == (6 + GAP, 2 * (6 + GAP), 3)
    np.testing.assert_array_equal(sheet[:6, :6], pixels[0, 0].permute(1, 2, 0).numpy())


def test_features_stand_beside_their_image():
    """Two images, one twice as wide: patches are squares of one color, attention is white at its largest."""
    images = [Image.new('RGB', (40, 40), (10, 20, 30)), Image.new('L', (80, 40), 200)]
    colors = [torch.rand(4, 4, 3), torch.rand(4, 8, 3)]
    attention = [torch.arange(16.0).view(4, 4), torch.arange(32.0).view(4, 8)]
    sheet = features_sheet(images, colors, attention)
    assert sheet.shape == (2 * (HEIGHT + GAP), 3 * (2 * HEIGHT + GAP), 3)
    first, second = sheet[:HEIGHT], sheet[HEIGHT + GAP : -GAP]
    assert (first[:, :HEIGHT] == (10, 20, 30)).all()
    assert (first[:, 3 * (HEIGHT + GAP) :] == 255).all()  # as wide as the other
    patch, start = HEIGHT // 4, 2 * HEIGHT + GAP
    cells = second[:, start : start + 2 * HEIGHT].reshape(4, patch, 8, patch, 3)
    assert (cells == cells[:, :1, :, :1]).all()
    np.testing.assert_array_equal(cells[:, 0, :, 0], (colors[1] * 255).round().byte())
    grays = first[::patch, 2 * (HEIGHT + GAP) : 3 * HEIGHT + 2 * GAP : patch]
    np.testing.assert_allclose(grays[..., 0], attention[0] * 255 / 15, atol=0.5)


def test_features_without_class_token():
    sheet = features_sheet([Image.new('RGB', (9, 9))], [torch.rand(3, 3, 3)], [])
    assert sheet.shape == (HEIGHT + GAP, 2 * (HEIGHT + GAP), 3)
