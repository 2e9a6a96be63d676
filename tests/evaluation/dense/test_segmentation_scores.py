"""Counts and mean IoUs against loops and closed forms; what is left out is counted."""

import pytest
import torch

from mmadclr.evaluation.dense.segmentation_scores import (
    class_counts,
    class_ious,
    count_pixels,
    mean_iou,
    mean_iou_of_images,
    pixel_accuracy,
)  # fmt: skip


def looped(prediction, masks, rows, columns, ignore):
    counts = torch.zeros(len(masks), rows, columns, dtype=torch.int32)
    for image in range(len(masks)):
        for p, a in zip(prediction[image].flatten().tolist(), masks[image].flatten().tolist(), strict=True):
            if a not in ignore:
                counts[image, a, p] += 1
    return counts


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int64])
def test_counts_are_those_of_a_loop(monkeypatch, dtype):
    monkeypatch.setattr('mmadclr.evaluation.dense.segmentation_scores.COUNT_BYTES', 1)
    prediction, masks = torch.randint(0, 7, (3, 5, 4)).to(dtype), torch.randint(0, 4, (3, 5, 4)).to(dtype)
    masks[0, :2], masks[2] = 255, 0
    found = count_pixels(prediction, masks, 4, 7, ignore=(0, 255))
    assert torch.equal(found.confusions, looped(prediction, masks, 4, 7, (0, 255)))
    assert found.ignored.tolist() == [int(((m == 0) | (m == 255)).sum()) for m in masks]
    assert torch.equal(found.confusion, found.confusions.sum(dim=0))


CONFUSION = torch.tensor([[6, 2, 1, 0], [1, 9, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])  # class 2 is predicted only, 3 never


def test_the_three_means_differ_by_absent_classes():
    ious = [6 / 10, 9 / 12]
    assert class_ious(CONFUSION)[:3].tolist() == pytest.approx([*ious, 0])
    assert class_ious(CONFUSION)[3].isnan()
    assert mean_iou(CONFUSION, 'all') == pytest.approx(sum(ious) / 4)
    assert mean_iou(CONFUSION, 'seen') == pytest.approx(sum(ious) / 3)
    assert mean_iou(CONFUSION, 'annotated') == pytest.approx(sum(ious) / 2)
    assert pixel_accuracy(CONFUSION) == 15 / 19
    assert [x.tolist() for x in class_counts(CONFUSION)] == [[6, 9, 0, 0], [1, 2, 1, 0], [3, 1, 0, 0]]


def test_means_over_images_leave_out_those_without_labels():
    found = mean_iou_of_images(torch.stack((CONFUSION, torch.zeros_like(CONFUSION), torch.eye(4).long())))
    assert found == (pytest.approx((mean_iou(CONFUSION, 'seen') + 1) / 2), 1)


def test_what_cannot_be_scored_is_refused():
    masks = torch.zeros(1, 2, 2).long()
    with pytest.raises(ValueError, match='must have the same shape'):
        count_pixels(masks, masks[:, :1], 2)
    with pytest.raises(
        ValueError, match=r'masks: label 255 is neither one of the 2 classes nor one of the ignored labels \[\]'
    ):
        count_pixels(masks, masks + 255, 2, ignore=())
    with pytest.raises(ValueError, match='masks: label -1'):
        count_pixels(masks, masks - 1, 2)
    with pytest.raises(ValueError, match='predictions: label 2'):
        count_pixels(masks + 2, masks, 2)
    with pytest.raises(ValueError, match='labels must be integers'):
        count_pixels(masks, masks.float(), 2)
    with pytest.raises(ValueError, match="over='some'"):
        mean_iou(CONFUSION, 'some')
    with pytest.raises(ValueError, match='not matched to 3 classes'):
        mean_iou(torch.ones(3, 2))
    empty = torch.zeros(2, 2).long()
    for score in (mean_iou, pixel_accuracy, lambda x: mean_iou_of_images(x[None])):
        with pytest.raises(ValueError, match='no pixel is annotated'):
            score(empty)
