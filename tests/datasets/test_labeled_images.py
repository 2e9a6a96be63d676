"""Images and label maps that a reader of benchmarks listed, against those that a data set finds by names."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmadclr.datasets import MaskedImageDataset
from mmadclr.datasets.benchmarks import open_benchmark
from mmadclr.datasets.label_maps import LabelMapError
from mmadclr.datasets.labeled_images import LabeledImages


@pytest.fixture
def root(tmp_path):
    """Five images of other shapes, with masks of the labels 0 to 2 and 255, in subfolders and with odd names."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(('a', 'b/c', 'b/d e', 'ü', 'z')):
        size = (20 + number, 17)
        for kind, pixels in (
            ('images', rng.integers(0, 256, (*size, 3))),
            ('masks', rng.choice([0, 1, 2, 255], size)),
        ):
            path = tmp_path / kind / f'{name}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path


def labeled(root, split, size=8):
    benchmark = open_benchmark('folder', str(root))
    return LabeledImages(benchmark, getattr(benchmark, split), str(root), size)


def test_samples_are_those_of_a_folder_by_names(root):
    expected = MaskedImageDataset(str(root), 'images', 'masks', size=8, num_classes=3, with_mask=True)
    by_name = {expected.path(index).stem: index for index in range(5)}
    found = [labeled(root, split) for split in ('train', 'val')]
    assert [len(part) for part in found] == [4, 1]
    for part in found:
        assert part.num_classes == 3
        for index in range(len(part)):
            other = by_name[part.path(index).stem]
            sample, reference = part[index], expected[other]
            assert torch.equal(sample['images'], reference['images'])
            assert torch.equal(sample['mask'], reference['mask'])
            assert part.label_counts(index) == expected.label_counts(other)
            assert part.path(index).samefile(expected.path(other))


def test_labels_are_those_of_the_reader_not_of_the_files(root):
    benchmark = open_benchmark('folder', str(root))
    swapped = benchmark._replace(read_labels=lambda item: np.full((4, 4), 1, np.uint8))
    assert LabeledImages(swapped, benchmark.val, str(root), 4).mask(0).tolist() == [[1] * 4] * 4


def test_a_mask_of_another_size_names_both_files(root):
    (root / 'classes.txt').write_text('one\ntwo\nthree\n')
    Image.new('L', (9, 9)).save(root / 'masks/a.png')
    with pytest.raises(LabelMapError, match=r'mask .*masks/a\.png has 9x9 pixels, but its image .*images/a\.png has 17x20'):
        labeled(root, 'train').mask(0)
