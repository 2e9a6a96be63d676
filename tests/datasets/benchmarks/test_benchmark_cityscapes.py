"""Cityscapes: the labels of torchvision's data set, and of its table of classes."""

import numpy as np
import pytest
from benchmark_miniatures import make
from torchvision.datasets import Cityscapes

from mmadclr.datasets.benchmarks import open_benchmark

TABLE = {each.id: each.train_id for each in Cityscapes.classes}


@pytest.mark.parametrize('split', ['train', 'val'])
def test_labels_equal_those_of_torchvision(split, tmp_path):
    benchmark = open_benchmark('cityscapes', str(make('cityscapes', tmp_path)))
    theirs = Cityscapes(str(tmp_path), split=split, mode='fine', target_type='semantic')
    expected = {path: np.array(theirs[number][1]) for number, path in enumerate(theirs.images)}
    items = getattr(benchmark, split)
    assert sorted(item.image for item in items) == sorted(expected)
    for item in items:
        train_ids = np.vectorize(TABLE.get)(expected[item.image])
        assert np.array_equal(benchmark.read_labels(item), np.where(train_ids == -1, 255, train_ids))


def test_classes_are_those_of_torchvision():
    from mmadclr.datasets.benchmarks.cityscapes import CLASSES, LABELS

    evaluated = sorted((each.train_id, each.id, each.name) for each in Cityscapes.classes if 0 <= each.train_id < 19)
    assert [(number, label, name) for number, (label, name) in enumerate(zip(LABELS, CLASSES, strict=True))] == evaluated
