"""ADE20K: label 0 ignored or a class."""

import numpy as np
import pytest
from benchmark_miniatures import make
from PIL import Image

from mmadclr.datasets.benchmarks import open_benchmark
from mmadclr.datasets.benchmarks.ade20k import CLASSES, open_ade20k


def test_zero_is_ignored_or_a_class(tmp_path):
    root = str(make('ade20k', tmp_path))
    void, whole = open_benchmark('ade20k', root), open_benchmark('ade20k_151', root)
    assert whole.classes == ('unlabeled', *void.classes)
    assert (void.background, whole.background) == (None, 0)
    seen = set()
    for item in (*void.train, *void.val):
        stored = np.array(Image.open(item.mask)).astype(int)
        assert np.array_equal(whole.read_labels(item), stored)
        assert np.array_equal(void.read_labels(item), np.where(stored == 0, 255, stored - 1))
        seen |= {*np.unique(stored).tolist()}
    assert {0, 150} <= seen


@pytest.mark.parametrize(('name', 'value'), [('ade20k', 151), ('ade20k', 255), ('ade20k_151', 255), ('ade20k_151', 151)])
def test_masks_with_other_labels_are_not_those_of_the_challenge(name, value, tmp_path):
    benchmark = open_benchmark(name, str(make(name, tmp_path)))
    path = benchmark.train[2].mask
    labels = np.array(Image.open(path))
    labels[5, :7] = value
    Image.fromarray(labels).save(path)
    with pytest.raises(ValueError, match=f'mask {path}: 7 pixels have the label {value}, .*without reduced labels'):
        benchmark.read_labels(benchmark.train[2])


def test_other_values_of_zero(tmp_path):
    with pytest.raises(ValueError, match="zero='ignore': must be 'void' or 'class'"):
        open_ade20k(str(tmp_path), zero='ignore')


@pytest.mark.dense
def test_classes_are_those_of_mmsegmentation():
    from mmseg.datasets import ADE20KDataset

    assert tuple(name.strip() for name in ADE20KDataset.METAINFO['classes']) == CLASSES
