"""Matchings against all permutations and by hand."""

import itertools
import sys

import pytest
import torch

from mmadclr.evaluation.dense.matching import (
    UNMATCHED,
    cluster_ious,
    cluster_precisions,
    match_clusters,
    match_many_to_one,
    match_one_to_one,
    matched_counts,
)  # fmt: skip
from mmadclr.evaluation.dense.segmentation_scores import mean_iou


@pytest.mark.parametrize(('classes', 'clusters'), [(4, 4), (3, 5), (5, 3)])
def test_one_to_one_is_the_best_of_all(classes, clusters):
    pytest.importorskip('scipy')
    confusion = torch.randint(0, 30, (classes, clusters), generator=torch.Generator().manual_seed(classes))
    mapping, ious = match_one_to_one(confusion), cluster_ious(confusion)
    matched = [(int(c), k) for k, c in enumerate(mapping) if c != UNMATCHED]
    assert len(matched) == len({c for c, _ in matched}) == min(classes, clusters)
    options = (
        [(c, k) for c, k in zip(range(classes), some, strict=False)]
        if classes <= clusters
        else list(zip(some, range(clusters), strict=False))
        for some in itertools.permutations(range(max(classes, clusters)), min(classes, clusters))
    )
    best = max(sum(ious[pair].item() for pair in option) for option in options)
    assert sum(ious[pair].item() for pair in matched) == pytest.approx(best)


def test_many_to_one_takes_the_first_best_class():
    confusion = torch.tensor([[4, 0, 0, 1], [4, 3, 0, 1], [0, 1, 0, 9]])
    assert match_many_to_one(confusion).tolist() == [0, 1, 0, 2]
    assert cluster_precisions(confusion)[:, 0].tolist() == [0.5, 0.5, 0]
    assert match_clusters(confusion, 'iou').tolist() == cluster_ious(confusion).argmax(dim=0).tolist()
    assert match_clusters(confusion, None) is None


def test_folded_counts_keep_all_pixels():
    confusion, mapping = torch.tensor([[5, 1, 2], [0, 7, 3]]), torch.tensor([0, 1, UNMATCHED])
    assert matched_counts(confusion, mapping).tolist() == [[7, 1, 0], [3, 7, 0]]
    assert matched_counts(confusion, mapping, None).tolist() == [[5, 1, 2], [0, 7, 3]]
    assert mean_iou(matched_counts(confusion, mapping, None)) == pytest.approx((5 / 8 + 7 / 11) / 2)
    images = matched_counts(confusion.expand(3, -1, -1), mapping)
    assert torch.equal(images[1], matched_counts(confusion, mapping))


def test_what_is_missing_or_unknown_is_said(monkeypatch):
    with pytest.raises(ValueError, match="matching='best'"):
        match_clusters(torch.ones(2, 2), 'best')
    monkeypatch.setitem(sys.modules, 'scipy.optimize', None)
    with pytest.raises(ImportError, match=r"needs scipy: pip install 'mmadclr\[evaluation\]'"):
        match_one_to_one(torch.ones(2, 2))
