"""Packed images come out of the shards as they went in."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image, ImageCms

from mmadclr.datasets import ImageDataset, packing
from mmadclr.datasets.decoding import load_rgb
from mmadclr.datasets.packing import pack_shards
from mmadclr.datasets.pixels import PixelOptions
from mmadclr.datasets.readers import read_class_folders

CENTER = dict(type='ResizeCenterCrop', resize=16, size=16)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def test_bytes_and_labels_survive(image_folder, tmp_path):
    root = image_folder(count=11, classes=3)
    Image.new('RGB', (9, 9)).save(root / 'class1' / 'with.dots.in.name.JPG')
    shards = pack_shards(root, tmp_path / 'out', images_per_shard=5, with_label=True)
    assert [shard.name for shard in shards] == ['000000.tar', '000001.tar', '000002.tar']
    assert sorted((tmp_path / 'out').iterdir()) == [
        *shards,
        tmp_path / 'out' / 'classes.txt',
        tmp_path / 'out' / 'packing.json',
    ]
    listing = read_class_folders(root)
    expected = sorted(
        ((root / os.fsdecode(path)).read_bytes(), label) for path, label in zip(listing.paths, listing.labels, strict=True)
    )
    dataset = ImageDataset(tmp_path / 'out', CENTER, shards='{000000..000002}.tar', with_label=True)
    got = [(dataset.source.read(index), int(dataset.labels[index])) for index in range(len(dataset))]
    assert sorted(got) == expected
    assert got != expected  # neighbors are mixed
    assert np.bincount(dataset.source.shard_of).tolist() == [5, 5, 2]
    assert dataset.metainfo == ImageDataset(root, CENTER, with_label=True).metainfo
    (tmp_path / 'out' / 'classes.txt').write_text('class0\n')
    with pytest.raises(ValueError, match=r'classes\.txt has 1 class names, but labels of the shards go up to 2'):
        ImageDataset(tmp_path / 'out', CENTER, shards='*.tar', with_label=True)


def test_without_labels_there_are_images_alone(image_folder, tmp_path):
    (shard,) = pack_shards(image_folder(count=3), tmp_path / 'out', images_per_shard=5)
    with tarfile.open(shard) as tar:
        assert tar.getnames() == [f'{number:09d}.png' for number in range(3)]


def test_bad_arguments_are_explained(image_folder, tmp_path):
    root = image_folder()
    with pytest.raises(ValueError, match='images_per_shard=0 must be at least 1'):
        pack_shards(root, tmp_path / 'out', images_per_shard=0)
    with pytest.raises(FileExistsError, match='exists and is not an empty folder: choose another one'):
        pack_shards(root, root, images_per_shard=5)
    with pytest.raises(FileNotFoundError, match='nowhere does not exist'):
        pack_shards(tmp_path / 'nowhere', tmp_path / 'out', images_per_shard=5)


def picture(size, seed=0):
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def members(shards):
    found = {}
    for shard in shards:
        with tarfile.open(shard) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}
    return found


@pytest.fixture
def photos(tmp_path):
    """Above 64 pixels: a JPEG on its side, a gray one, a line, PNG with alpha and of 16 bits, and what cannot be read."""
    root = tmp_path / 'photos'
    root.mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    picture((120, 80)).save(root / 'turned.jpg', quality=95, exif=turned, icc_profile=profile)
    picture((100, 300)).convert('L').save(root / 'gray.jpg', icc_profile=b'\0' * 16 + b'GRAY' + b'\0' * 200)
    picture((64, 10)).save(root / 'small.JPEG')
    picture((65, 1)).save(root / 'line.bmp')
    alpha = picture((90, 90))
    alpha.putalpha(100)
    alpha.save(root / 'alpha.png')
    Image.fromarray(np.linspace(0, 65535, 70 * 70).reshape(70, 70).astype(np.uint16)).save(root / 'deep.png')
    (root / 'cut.jpg').write_bytes((root / 'turned.jpg').read_bytes()[:-1500])
    (root / 'none.png').write_bytes(b'no image')
    return root


def test_large_images_become_smaller_jpeg(photos, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(packing, 'print_log', lambda message, *_: said.append(message))
    got = members(pack_shards(photos, tmp_path / 'out', 3, max_side=64, quality=85))
    order = np.random.default_rng(0).permutation(8)
    files = [sorted(photos.iterdir())[i] for i in order]
    packed = {file.name: (name, got[name]) for file, name in zip(files, sorted(got), strict=True)}
    for name in ('small.JPEG', 'cut.jpg', 'none.png'):
        assert packed[name] == (
            f'{files.index(photos / name):09d}{(photos / name).suffix.lower()}',
            (photos / name).read_bytes(),
        )
    sizes = {'turned.jpg': (43, 64), 'gray.jpg': (21, 64), 'line.bmp': (64, 1), 'alpha.png': (64, 64), 'deep.png': (64, 64)}
    for name, size in sizes.items():
        key, data = packed[name]
        assert key.endswith('.jpg')
        expected = io.BytesIO()  # the same by hand
        load_rgb(photos / name).resize(size, Image.Resampling.BICUBIC).save(expected, 'JPEG', quality=85, subsampling=2)
        with Image.open(io.BytesIO(data)) as image, Image.open(expected) as wanted:
            assert np.array_equal(np.asarray(image), np.asarray(wanted))
            assert image.quantization == wanted.quantization
            assert ('icc_profile' in image.info) == (name == 'turned.jpg')
            assert not image.getexif()
    record = json.loads((tmp_path / 'out' / 'packing.json').read_text())
    assert (record['images'], record['smaller'], record['max_side'], record['quality']) == (8, 5, 64, 85)
    assert record['bytes_read'] == sum(file.stat().st_size for file in files)
    assert record['bytes_written'] == sum(map(len, got.values()))
    assert sorted(record['lost'].values()) == [1, 1]  # alpha, 16 bits
    assert sorted(message.partition(': ')[0] for message in record['unreadable']) == sorted(
        str(photos / name) for name in ('cut.jpg', 'none.png')
    )
    assert said[0].startswith('5 of 8 images were larger than 64 pixels and converted to JPEG with quality 85 (4:2:0); ')
    assert said[-1].startswith('2 images cannot be read and are packed unchanged: ')


@pytest.mark.slow
def test_several_processes_pack_the_same(photos, tmp_path):
    one, two = (pack_shards(photos, tmp_path / f'{n}', 3, max_side=64, num_workers=n) for n in (1, 2))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_what_makes_no_sense_of_smaller_images_is_explained(photos, tmp_path):
    wrong = [
        (dict(max_side=0), 'max_side=0 must be at least 1'),
        (dict(max_side=64, quality=101), 'quality=101 must be 1 to 100'),
        (dict(max_side=64, options=PixelOptions(bands=(2, 1, 0))), 'bands cannot be combined with max_side'),
        (dict(num_workers=0), 'num_workers=0 must be at least 1'),
    ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            pack_shards(photos, tmp_path / 'out', 3, **arguments)
    assert not (tmp_path / 'out').exists()
