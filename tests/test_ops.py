"""The stand-in for mmcv's compiled operations against plain loops, and when it takes their place."""

import importlib
import math
import sys
from importlib.machinery import EXTENSION_SUFFIXES

import numpy as np
import pytest
import torch
from programs import python

from mmadclr import ops

# Inside, partly outside on every side, wholly outside, thin, of no size; in coordinates of the map once scaled by 1/2.
ROIS = torch.tensor(
    [
        [0, 2.3, 1.1, 9.7, 8.2],
        [1, -3.0, -4.5, 6.2, 5.1],
        [2, 7.0, 6.0, 21.0, 19.5],
        [1, 30.0, 30.0, 40.0, 44.0],
        [2, 1.0, 2.0, 1.3, 9.0],
        [0, 4.0, 4.0, 4.0, 4.0],
        [0, 0.0, 0.0, 12.0, 14.0],
    ],
    dtype=torch.float64,
)
SIZE, SCALE = (3, 2), 0.5
NO_ARGMAX = torch.empty(0)
SETTINGS = [(ratio, aligned) for ratio in (0, 2) for aligned in (False, True)]
needs_stand_in = pytest.mark.skipif(ops.compiled_extension() is not None, reason='mmcv has its compiled operations')


def slow_nms(boxes, scores, threshold):
    """Indices kept, one box at a time."""
    boxes, kept = boxes.tolist(), []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i].item()):
        if all(overlap(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def overlap(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def slow_roi_align(maps, rois, ratio, aligned, size=SIZE, scale=SCALE):
    """Average of bilinear samples, one sample at a time, in float64."""
    maps, out = maps.double().numpy(), np.zeros((len(rois), maps.shape[1], *size))
    for k, (image, *corners) in enumerate(rois.tolist()):
        x0, y0, x1, y1 = (corner * scale - 0.5 * aligned for corner in corners)
        height, width = (y1 - y0, x1 - x0) if aligned else (max(y1 - y0, 1), max(x1 - x0, 1))
        bin_h, bin_w = height / size[0], width / size[1]
        rows, columns = (ratio, ratio) if ratio else (math.ceil(bin_h), math.ceil(bin_w))
        for i, j in np.ndindex(*size):
            samples = [
                bilinear(maps[int(image)], y0 + (i + (r + 0.5) / rows) * bin_h, x0 + (j + (c + 0.5) / columns) * bin_w)
                for r in range(rows)
                for c in range(columns)
            ]
            out[k, :, i, j] = sum(samples) / max(len(samples), 1)
    return torch.from_numpy(out)


def bilinear(image, y, x):
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(len(image))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    above = (1 - dx) * image[:, top, left] + dx * image[:, top, right]
    below = (1 - dx) * image[:, bottom, left] + dx * image[:, bottom, right]
    return (1 - dy) * above + dy * below


def pooled(module, maps, rois, ratio, aligned):
    output = maps.new_zeros(len(rois), maps.shape[1], *SIZE)
    settings = dict(spatial_scale=SCALE, sampling_ratio=ratio, pool_mode=1, aligned=aligned)
    module.roi_align_forward(maps, rois, output, NO_ARGMAX, NO_ARGMAX, *SIZE, **settings)
    return output


def pulled_back(module, gradient, rois, shape, ratio, aligned):
    grad_input = gradient.new_zeros(shape)
    settings = dict(spatial_scale=SCALE, sampling_ratio=ratio, pool_mode=1, aligned=aligned)
    module.roi_align_backward(gradient, rois, NO_ARGMAX, NO_ARGMAX, grad_input, *SIZE, **settings)
    return grad_input


def random_boxes(count=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corners, sides = (torch.rand(count, 2, generator=generator) * scale for scale in (40, 30))
    scores = (torch.randperm(count, generator=generator) + 1) / (count + 1)
    return torch.cat((corners, corners + sides + 1), dim=1), scores


@pytest.fixture
def maps():
    return torch.randn(3, 4, 7, 6, dtype=torch.float64)


@pytest.fixture
def mmcv_ops():
    return importlib.import_module('mmcv.ops')


@pytest.mark.parametrize('threshold', [0.0, 0.1, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize('seed', range(3))
def test_nms_is_the_greedy_loop(threshold, seed):
    boxes, scores = random_boxes(seed=seed)
    kept = ops.nms(boxes, scores, iou_threshold=threshold, offset=0)
    assert kept.tolist() == slow_nms(boxes, scores, threshold)


def test_boxes_that_overlap_by_exactly_the_threshold_stay():
    boxes, scores = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1]]), torch.tensor([0.9, 0.8])
    assert ops.nms(boxes, scores, 0.5, 0).tolist() == [0, 1]
    assert ops.nms(boxes, scores, 0.49, 0).tolist() == [0]


def test_no_boxes_and_no_rois(maps):
    assert ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5, 0).tolist() == []
    assert pooled(ops, maps, ROIS[:0], 0, True).shape == (0, 4, *SIZE)
    assert not pulled_back(ops, torch.zeros(0, 4, *SIZE, dtype=torch.float64), ROIS[:0], maps.shape, 0, True).any()


@pytest.mark.parametrize(('ratio', 'aligned'), SETTINGS)
def test_roi_align_is_the_loop_over_samples(maps, ratio, aligned):
    got = pooled(ops, maps, ROIS, ratio, aligned)
    torch.testing.assert_close(got, slow_roi_align(maps, ROIS, ratio, aligned), rtol=0, atol=1e-12)


@pytest.mark.parametrize(('ratio', 'aligned'), SETTINGS)
def test_roi_align_backward_is_the_transpose_of_the_loop(ratio, aligned):
    """RoIAlign is linear in the map: its gradient follows from the loop's answers to maps with a single one."""
    shape = (3, 1, 7, 6)
    upstream = torch.randn(len(ROIS), 1, *SIZE, dtype=torch.float64)
    ones = torch.eye(math.prod(shape), dtype=torch.float64).unflatten(1, shape)
    expected = torch.stack([(slow_roi_align(one, ROIS, ratio, aligned) * upstream).sum() for one in ones]).view(shape)
    got = pulled_back(ops, upstream, ROIS, shape, ratio, aligned)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(('ratio', 'aligned'), SETTINGS)
def test_forward_and_backward_are_adjoint(maps, ratio, aligned):
    upstream = torch.randn(len(ROIS), 4, *SIZE, dtype=torch.float64)
    there = (pooled(ops, maps, ROIS, ratio, aligned) * upstream).sum()
    back = (maps * pulled_back(ops, upstream, ROIS, maps.shape, ratio, aligned)).sum()
    assert there.item() == pytest.approx(back.item(), abs=1e-10)
    assert abs(there.item()) > 1e-3


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_the_fp32_result_rounded(maps, dtype):
    low, rois = maps.to(dtype), ROIS.float()
    assert torch.equal(pooled(ops, low, rois, 0, True), pooled(ops, low.float(), rois, 0, True).to(dtype))
    upstream = torch.randn(len(ROIS), 4, *SIZE).to(dtype)
    full = pulled_back(ops, upstream.float(), rois, maps.shape, 0, True)
    assert torch.equal(pulled_back(ops, upstream, rois, maps.shape, 0, True), full.to(dtype))
    boxes, scores = random_boxes()
    expected = ops.nms(boxes.to(dtype).float(), scores.to(dtype).float(), 0.3, 0)
    assert torch.equal(ops.nms(boxes.to(dtype), scores.to(dtype), 0.3, 0), expected)


def test_unsupported_variants_name_the_op(maps):
    with pytest.raises(ops.UnsupportedOpError, match=r'mmcv\.ops\.nms\(offset=1\) needs the compiled operations'):
        ops.nms(*random_boxes(), 0.5, offset=1)
    for function in (ops.roi_align_forward, ops.roi_align_backward):
        with pytest.raises(ops.UnsupportedOpError, match=r"mmcv\.ops\.roi_align\(pool_mode='max'\) needs the compiled"):
            function(maps, ROIS, maps, maps, maps, *SIZE, SCALE, 0, 0, True)


@needs_stand_in
def test_operations_without_a_counterpart_say_how_to_get_them():
    module = sys.modules[ops.EXTENSION]
    with pytest.raises(ops.UnsupportedOpError, match=r"mmcv\.ops\.carafe_forward needs .*'MMCV_WITH_OPS=1 pip install "):
        module.carafe_forward(torch.zeros(1), scale=2)
    assert not hasattr(module, '__path__')


@needs_stand_in
def test_installing_twice_changes_nothing():
    module = sys.modules[ops.EXTENSION]
    assert ops.install()
    assert ops.install()
    assert sys.modules[ops.EXTENSION] is module
    assert module.nms is ops.nms


@pytest.mark.dense
@pytest.mark.parametrize(('ratio', 'aligned'), SETTINGS)
def test_mmcv_roi_align_is_the_loop_over_samples(mmcv_ops, maps, ratio, aligned):
    layer = mmcv_ops.RoIAlign(SIZE, SCALE, ratio, aligned=aligned)
    torch.testing.assert_close(layer(maps, ROIS), slow_roi_align(maps, ROIS, ratio, aligned), rtol=0, atol=1e-12)
    got = layer(maps.float(), ROIS.float()).double()
    torch.testing.assert_close(got, slow_roi_align(maps, ROIS, ratio, aligned), rtol=0, atol=2e-5)


@pytest.mark.dense
@pytest.mark.parametrize(('ratio', 'aligned'), SETTINGS)
def test_mmcv_roi_align_gradients_are_those_of_finite_differences(mmcv_ops, ratio, aligned):
    layer = mmcv_ops.RoIAlign(SIZE, SCALE, ratio, aligned=aligned)
    maps = torch.randn(3, 2, 7, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x, ROIS), maps)


@pytest.mark.dense
def test_mmcv_roi_align_under_autocast(mmcv_ops, maps):
    layer = mmcv_ops.RoIAlign(SIZE, SCALE, 2)
    low = maps.bfloat16().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        out = layer(low, ROIS.float())
    assert torch.equal(out, layer(low.float(), ROIS.float()).bfloat16())
    out.backward(torch.ones_like(out))
    ones = torch.ones(len(ROIS), 4, *SIZE)
    assert torch.equal(low.grad, pulled_back(ops, ones, ROIS.float(), maps.shape, 2, True).bfloat16())


@pytest.mark.dense
@pytest.mark.parametrize('threshold', [0.1, 0.5, 0.7])
def test_mmcv_nms_is_the_greedy_loop(mmcv_ops, threshold):
    boxes, scores = random_boxes()
    expected = slow_nms(boxes, scores, threshold)
    detections, kept = mmcv_ops.nms(boxes, scores, threshold)
    assert kept.tolist() == expected
    assert torch.equal(detections, torch.cat((boxes, scores[:, None]), dim=1)[kept])
    assert mmcv_ops.nms(boxes.numpy(), scores.numpy(), threshold)[1].tolist() == expected
    likely = [i for i in expected if scores[i] > 0.4]
    assert mmcv_ops.nms(boxes, scores, threshold, score_threshold=0.4, max_num=3)[1].tolist() == likely[:3]


@pytest.mark.dense
@pytest.mark.parametrize('split_thr', [10000, 10])
def test_mmcv_batched_nms_is_the_greedy_loop_per_class(mmcv_ops, split_thr):
    boxes, scores = random_boxes()
    classes = torch.arange(len(boxes)) % 3
    expected = []
    for number in range(3):
        members = (classes == number).nonzero().flatten()
        expected += members[slow_nms(boxes[members], scores[members], 0.4)].tolist()
    expected.sort(key=lambda i: -scores[i].item())
    cfg = dict(type='nms', iou_threshold=0.4, split_thr=split_thr)
    detections, kept = mmcv_ops.batched_nms(boxes, scores, classes, cfg)
    assert kept.tolist() == expected
    assert torch.equal(detections, torch.cat((boxes, scores[:, None]), dim=1)[kept])
    agnostic = mmcv_ops.batched_nms(boxes, scores, classes, dict(iou_threshold=0.4), class_agnostic=True)[1]
    assert agnostic.tolist() == slow_nms(boxes, scores, 0.4)


@pytest.mark.dense
@needs_stand_in
def test_other_operations_of_mmcv_complain_when_called(mmcv_ops, maps):
    weight = torch.zeros(4, 4, 3, 3)
    with pytest.raises(ops.UnsupportedOpError, match=r'mmcv\.ops\.deform_conv_forward needs'):
        mmcv_ops.deform_conv2d(maps.float(), torch.zeros(3, 18, 7, 6), weight, 1, 1)
    with pytest.raises(ops.UnsupportedOpError, match=r"mmcv\.ops\.roi_align\(pool_mode='max'\)"):
        mmcv_ops.RoIAlign(SIZE, pool_mode='max')(maps, ROIS)
    with pytest.raises(ops.UnsupportedOpError, match=r'mmcv\.ops\.nms\(offset=1\)'):
        mmcv_ops.nms(*random_boxes(), 0.5, offset=1)
    with pytest.raises(ops.UnsupportedOpError, match=r'mmcv\.ops\.softnms needs'):
        mmcv_ops.soft_nms(*random_boxes())


@pytest.mark.dense
@pytest.mark.skipif(ops.compiled_extension() is None, reason='mmcv has no compiled operations')
def test_stand_in_agrees_with_the_compiled_operations(maps):
    compiled = importlib.import_module(ops.EXTENSION)
    for threshold in (0.1, 0.5, 0.7):
        boxes, scores = random_boxes()
        assert torch.equal(ops.nms(boxes, scores, threshold, 0), compiled.nms(boxes, scores, threshold, 0))
    upstream = torch.randn(len(ROIS), 4, *SIZE, dtype=torch.float64)
    for settings in SETTINGS:
        ours, theirs = (pooled(module, maps, ROIS, *settings) for module in (ops, compiled))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        ours, theirs = (pulled_back(module, upstream, ROIS, maps.shape, *settings) for module in (ops, compiled))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_a_compiled_extension_wins(tmp_path):
    package = tmp_path / 'mmcv'
    package.mkdir()
    (package / '__init__.py').touch()
    (package / f'_ext{EXTENSION_SUFFIXES[0]}').touch()
    code = (
        'import sys; from mmadclr import ops; found = ops.compiled_extension(); '
        "print(found.origin, ops.install(), 'mmcv._ext' in sys.modules, 'mmcv' in sys.modules)"
    )
    (tmp_path / 'program.py').write_text(code)
    result = python(tmp_path / 'program.py')  # its folder comes first
    assert result.stdout.split() == [str(package / f'_ext{EXTENSION_SUFFIXES[0]}'), 'False', 'False', 'False'], result.stderr


@needs_stand_in
def test_the_stand_in_takes_its_place_only_when_asked_for(tmp_path):
    code = (
        "import sys, mmadclr, mmadclr.engine, mmadclr.models; print('mmcv._ext' in sys.modules); "
        "import mmadclr.ops; print('mmcv._ext' in sys.modules, mmadclr.ops.install())"
    )
    (tmp_path / 'program.py').write_text(code)
    result = python(tmp_path / 'program.py')
    assert result.stdout.split() == ['False', 'True', 'True'], result.stderr


@pytest.mark.dense
@needs_stand_in
def test_mmdet_imports_only_with_the_stand_in(tmp_path):
    (tmp_path / 'program.py').write_text('import mmdet.models')
    without = python(tmp_path / 'program.py', check=False)
    assert without.returncode == 1
    assert "No module named 'mmcv._ext'" in without.stderr
    assert importlib.import_module('mmdet.models').MaskRCNN
