"""Sliding windows against averages made by hand, and mmseg's inference."""

from types import SimpleNamespace

import pytest
import torch

from mmadclr.evaluation.dense.sliding import slide_logits, window_starts


def predict(windows):
    """Logits that depend on all pixels of a window, so that no two windows agree."""
    means = windows.mean(dim=(1, 2, 3))[:, None, None, None]
    return torch.cat((windows.sum(dim=1, keepdim=True) * means, windows[:, :1] + means), dim=1)


def test_every_pixel_is_the_mean_over_its_windows():
    image = torch.randn(3, 40, 56, dtype=torch.float64)
    rows, columns = (0, 16), (0, 16, 32)  # 24 wide, 16 apart
    total, counts = torch.zeros(2, 40, 56, dtype=torch.float64), torch.zeros(40, 56)
    for y in rows:
        for x in columns:
            total[:, y : y + 24, x : x + 24] += predict(image[None, :, y : y + 24, x : x + 24])[0]
            counts[y : y + 24, x : x + 24] += 1
    for batch in (1, 4, 99):
        torch.testing.assert_close(slide_logits(predict, image, 24, 16, batch), total / counts)
    assert int(counts.max()) == 4


@pytest.mark.parametrize(
    ('length', 'side', 'stride', 'starts'),
    [
        (512, 512, 341, [0]),
        (683, 512, 341, [0, 171]),
        (853, 512, 341, [0, 341]),
        (854, 512, 341, [0, 341, 342]),
        (100, 512, 341, [0]),
        (10, 4, 4, [0, 4, 6]),
    ],
)
def test_the_last_window_ends_with_the_image(length, side, stride, starts):
    assert window_starts(length, side, stride) == starts


def test_gaps_are_refused():
    for stride in (0, 25):
        with pytest.raises(ValueError, match=f'stride={stride} must be between 1 and the side 24 of a window'):
            slide_logits(predict, torch.zeros(3, 40, 40), 24, stride)


@pytest.mark.parametrize('size', [(40, 56), (24, 24), (20, 61), (13, 9)])
def test_mmseg_finds_the_same(size):
    segmentors = pytest.importorskip('mmseg.models.segmentors')
    image = torch.randn(3, *size)
    settings = SimpleNamespace(
        test_cfg=SimpleNamespace(stride=(16, 16), crop_size=(24, 24)),
        out_channels=2,
        encode_decode=lambda windows, metas: predict(windows),
    )
    expected = segmentors.EncoderDecoder.slide_inference(settings, image[None], [{}])
    torch.testing.assert_close(slide_logits(predict, image, 24, 16), expected[0])
