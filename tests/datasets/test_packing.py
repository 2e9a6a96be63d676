"""Packed images come out of the shards as they went in."""

import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from mmadclr.datasets import ImageDataset
from mmadclr.datasets.packing import pack_shards
from mmadclr.datasets.readers import read_class_folders

CENTRE = dict(type='ResizeCentreCrop', resize=16, size=16)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def test_bytes_and_labels_survive(image_folder, tmp_path):
    root = image_folder(count=11, classes=3)
    Image.new('RGB', (9, 9)).save(root / 'class1' / 'with.dots.in.name.JPG')
    shards = pack_shards(root, tmp_path / 'out', images_per_shard=5, with_label=True)
    assert [shard.name for shard in shards] == ['000000.tar', '000001.tar', '000002.tar']
    assert sorted((tmp_path / 'out').iterdir()) == [*shards, tmp_path / 'out' / 'classes.txt']
    listing = read_class_folders(root)
    expected = sorted(
        ((root / os.fsdecode(path)).read_bytes(), label) for path, label in zip(listing.paths, listing.labels, strict=True)
    )
    dataset = ImageDataset(tmp_path / 'out', CENTRE, shards='{000000..000002}.tar', with_label=True)
    got = [(dataset.source.read(index), int(dataset.labels[index])) for index in range(len(dataset))]
    assert sorted(got) == expected
    assert got != expected  # neighbours are mixed
    assert np.bincount(dataset.source.shard_of).tolist() == [5, 5, 2]
    assert dataset.metainfo == ImageDataset(root, CENTRE, with_label=True).metainfo
    (tmp_path / 'out' / 'classes.txt').write_text('class0\n')
    with pytest.raises(ValueError, match=r'classes\.txt names 1 classes, but labels of the shards go up to 2'):
        ImageDataset(tmp_path / 'out', CENTRE, shards='*.tar', with_label=True)


def test_without_labels_there_are_images_alone(image_folder, tmp_path):
    (shard,) = pack_shards(image_folder(count=3), tmp_path / 'out', images_per_shard=5)
    with tarfile.open(shard) as tar:
        assert tar.getnames() == [f'{number:09d}.png' for number in range(3)]


def test_bad_arguments_are_explained(image_folder, tmp_path):
    root = image_folder()
    with pytest.raises(ValueError, match='images_per_shard=0: a shard holds 1 or more images'):
        pack_shards(root, tmp_path / 'out', images_per_shard=0)
    with pytest.raises(FileExistsError, match='exists and is not an empty folder: choose another one'):
        pack_shards(root, root, images_per_shard=5)
    with pytest.raises(FileNotFoundError, match='nowhere does not exist'):
        pack_shards(tmp_path / 'nowhere', tmp_path / 'out', images_per_shard=5)
