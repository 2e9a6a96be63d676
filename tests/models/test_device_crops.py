"""Crops by products against Pillow, against a pixel-by-pixel reference, and in any grouping."""

import math
from contextlib import suppress

import numpy as np
import pytest
import torch
from counters import CallCounter
from PIL import Image

from mmadclr.datasets.transforms import random_resized_box
from mmadclr.models.preprocessors import device_crops
from mmadclr.models.preprocessors.device_crops import axis_weights, chunks, crops_of, full_precision, image_bytes


def picture(width, height, seed=0):
    """Soft shades, sharp shapes and stripes, a little noise: (3, height, width) uint8."""
    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.array(soft).astype(float)
    y, x = np.mgrid[:height, :width]
    pixels[(x / width - 0.4) ** 2 + (y / height - 0.6) ** 2 < 0.04] = (250, 20, 60)
    pixels[(x // 7 % 2 == 0) & (y > 0.8 * height)] = 5
    pixels += rng.normal(0, 4, pixels.shape)
    return torch.from_numpy(pixels.clip(0, 255).round().astype(np.uint8)).permute(2, 0, 1)


def by_pillow(image, box, size):
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    crop = picture.crop(tuple(box)).resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(crop)).permute(2, 0, 1)


def weight(x):
    """Keys' cubic with a = -1/2, written out."""
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def slow_pass(line, size):
    """One line of numbers resized as Pillow's documentation of its filter says, in double precision, rounded to 8 bits."""
    step = len(line) / size
    wide = max(step, 1.0)
    result = []
    for x in range(size):
        middle = (x + 0.5) * step
        first, last = max(0, math.floor(middle - 2 * wide)), min(len(line), math.ceil(middle + 2 * wide))
        weights = [weight((p + 0.5 - middle) / wide) for p in range(first, last)]
        value = sum(w * float(v) for w, v in zip(weights, line[first:last], strict=True)) / sum(weights)
        result.append(min(255, max(0, math.floor(value + 0.5))))
    return result


def slow_crop(image, box, size):
    left, top, right, bottom = box
    part = image[:, top:bottom, left:right].tolist()
    across = [[slow_pass(row, size) for row in color] for color in part]
    return torch.tensor([[slow_pass(column, size) for column in zip(*color, strict=True)] for color in across]).mT


BOXES = [(0, 0, 40, 30), (3, 5, 4, 6), (0, 0, 40, 2), (37, 0, 40, 30), (10, 10, 23, 21), (39, 29, 40, 30)]


@pytest.mark.parametrize('size', [1, 8, 17])
def test_equals_a_slow_reference(size):
    image = picture(40, 30)
    got = crops_of([image], [torch.tensor([BOXES])], [size])[0][0]
    expected = torch.stack([slow_crop(image, box, size) for box in BOXES])
    off = (got.int() - expected).abs()
    assert off.max() <= 1  # a value on the edge of two levels, in single precision
    assert (off > 0).float().mean() < 1e-3


def drawn_boxes(rng, width, height, count=12):
    """Usual boxes, and tall, wide, tiny ones, such of one pixel and the whole image."""
    usual = [random_resized_box(rng, (0, 0, width, height), (0.05, 1.0)) for _ in range(count)]
    corners = rng.integers(0, [width - 9, height - 9], (count, 2))
    tiny = [(x, y, x + 1 + k % 9, y + 1 + k % 7) for k, (x, y) in enumerate(corners.tolist())]
    return [*usual, *tiny, (5, 0, 21, height), (0, 7, width, 20), (0, 0, width, height), (width - 1, 0, width, 1)]


@pytest.mark.parametrize('size', [16, 96, 224])
def test_is_close_to_pillow(size):
    """Within the bounds of the documentation, over images of all extents at once."""
    rng = np.random.default_rng(size)
    images = [picture(width, height, seed) for seed, (width, height) in enumerate([(250, 180), (90, 260), (64, 64)])]
    boxes = [drawn_boxes(rng, image.shape[2], image.shape[1]) for image in images]
    got = crops_of(images, [torch.tensor(boxes)], [size])[0]
    assert got.dtype == torch.uint8
    expected = [[by_pillow(image, box, size) for box in own] for image, own in zip(images, boxes, strict=True)]
    off = (got.int() - torch.stack([torch.stack(own) for own in expected]).int()).abs().float()
    assert off.mean() <= 0.2
    assert (off <= 1).float().mean() >= 0.999
    assert off.flatten(0, 1).mean((1, 2, 3)).max() <= 0.6  # no single crop is another one


def test_pixels_outside_the_box_do_not_enter():
    image = picture(40, 30)
    left, top, right, bottom = box = (7, 6, 20, 22)
    other = torch.full_like(image, 255)
    other[:, top:bottom, left:right] = image[:, top:bottom, left:right]
    first, second = (crops_of([some], [torch.tensor([[box]])], [16])[0] for some in (image, other))
    assert torch.equal(first, second)


def test_weights_sum_to_one_within_the_box():
    start, stop = torch.tensor([3.0, 0.0]), torch.tensor([9.0, 50.0])
    weights = axis_weights(start, stop, 50, 12)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 12))
    assert weights[0, :, :3].eq(0).all()
    assert weights[0, :, 9:].eq(0).all()


@pytest.fixture
def batch():
    """Images of several extents, and boxes of two kinds of which one has none."""
    rng = np.random.default_rng(3)
    images = [picture(width, height, seed) for seed, (width, height) in enumerate([(50, 40), (30, 70), (64, 20), (41, 41)])]
    extents = [(0, 0, image.shape[2], image.shape[1]) for image in images]
    boxes = [[random_resized_box(rng, extent, (0.1, 0.9)) for _ in range(3)] for extent in extents]
    return images, [torch.tensor(boxes), torch.empty(4, 0, 4, dtype=torch.int64), torch.tensor(boxes)], [24, 8, 10]


def test_chunks_change_nothing(monkeypatch, batch):
    """Nor do the extents of the images that are worked on together; layouts of memory neither."""
    images, boxes, sizes = batch
    together = crops_of(images, boxes, sizes)
    assert [tuple(some.shape) for some in together] == [(4, 3, 3, 24, 24), (4, 0, 3, 8, 8), (4, 3, 3, 10, 10)]
    monkeypatch.setattr(device_crops, 'CHUNK_BYTES', 1)
    alone = crops_of([image.contiguous() for image in images], boxes, sizes)
    for a, b in zip(together, alone, strict=True):
        off = (a.int() - b.int()).abs()
        assert off.numel() == 0 or off.max() <= 1
        assert off.count_nonzero() <= 1e-3 * off.numel()


def test_chunks_keep_within_their_bytes(monkeypatch):
    images = [torch.empty((3, 30 + 10 * (i % 3), 40), device='meta') for i in range(20)]
    counts, sizes = [2, 4], [24, 8]
    limit = 4 * image_bytes(50, 40, counts, sizes)
    monkeypatch.setattr(device_crops, 'CHUNK_BYTES', limit)
    found = list(chunks(images, counts, sizes))
    assert [i for first, last in found for i in range(first, last)] == list(range(20))
    for first, last in found:
        height = max(image.shape[1] for image in images[first:last])
        assert (last - first) * image_bytes(height, 40, counts, sizes) <= limit
    assert len(found) == 5
    huge = [torch.empty((3, 9000, 9000), device='meta')] * 2
    assert list(chunks(huge, counts, sizes)) == [(0, 1), (1, 2)]


def test_an_image_takes_no_more_than_said():
    """Counted by what torch's allocator hands out for the largest kind."""
    image, boxes = picture(120, 90), torch.tensor([[(0, 0, 120, 90)] * 6])
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        crops_of([image], [boxes], [48])
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == '[memory]':
            held += event.nbytes()
            peak = max(peak, held)
    said = image_bytes(90, 120, [6], [48]) + 6 * 3 * 48 * 48 + 10_000  # the result, and odds and ends
    assert 0.3 * said < peak <= said


@pytest.mark.parametrize('box', [(5, 5, 5, 9), (0, 0, 41, 30), (0, 0, 40, 31), (-1, 0, 4, 4)])
def test_boxes_that_are_none(box):
    boxes = torch.tensor([[(0, 0, 40, 30), box]])
    with pytest.raises(ValueError, match=r'of image 0 of the batch is empty or exceeds its 40x30 pixels'):
        crops_of([picture(40, 30)], [boxes], [8])


def test_autocast_is_kept_out(batch):
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = crops_of(*batch)
    for a, b in zip(got, crops_of(*batch), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize('precision', ['highest', 'high', 'medium'])
def test_tf32_is_kept_out_and_comes_back(precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with suppress(KeyError), full_precision('cuda'):
            inside = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32
            raise KeyError
        assert inside == ('highest', False)
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cuda.matmul.allow_tf32 == (precision != 'highest')
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, 'fp32_precision'), reason='torch before 2.9')
def test_tf32_is_kept_out_where_the_newer_interface_was_used():
    settings = torch.backends.cuda.matmul
    before, settings.fp32_precision = settings.fp32_precision, 'tf32'
    try:
        with full_precision('cuda'):
            assert settings.fp32_precision == 'ieee'
        assert settings.fp32_precision == 'tf32'
    finally:
        settings.fp32_precision = before
    assert torch.get_float32_matmul_precision() == 'highest'


def test_nothing_waits_for_the_device(batch):
    images, boxes, sizes = batch
    with CallCounter() as counter:
        got = crops_of([image.to('meta') for image in images], boxes, sizes)
    assert counter.syncs == []
    assert counter.copies == len(images) + 1  # the images here, and all boxes together
    assert all(some.is_meta for some in got)


@pytest.mark.gpu
def test_a_gpu_cuts_the_same_crops_without_waiting(batch):
    images, boxes, sizes = batch
    expected = crops_of(images, boxes, sizes)
    there = [image.cuda() for image in images]
    torch.set_float32_matmul_precision('high')
    torch.cuda.set_sync_debug_mode('error')
    try:
        got = crops_of(there, boxes, sizes)
    finally:
        torch.cuda.set_sync_debug_mode('default')
        torch.set_float32_matmul_precision('highest')
    for a, b in zip(got, expected, strict=True):
        off = (a.cpu().int() - b.int()).abs()
        assert off.numel() == 0 or off.max() <= 1
        assert off.count_nonzero() <= 1e-3 * off.numel()
