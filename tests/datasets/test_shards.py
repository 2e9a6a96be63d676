"""Tar shards: the same images as from files, what is done about damage, and an index that is made once."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
import torch
from shards import image_bytes, write_shards, write_tar

from mmadclr.datasets import ImageDataset, UnreadableImageError, tar_index
from mmadclr.datasets.sources import TarSource
from mmadclr.datasets.tar_index import find_shards, read_shards, scan_shard, split_key

CROPS = dict(type='MultiCrop', global_size=16, local_size=8, query_size=8, num_local=2, num_query=2)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def said(monkeypatch):
    messages = []
    monkeypatch.setattr(tar_index, 'print_log', lambda message, *_: messages.append(message))
    return messages


def test_samples_are_those_of_the_same_files(tmp_path):
    write_shards(tmp_path / 'shards')
    (tmp_path / 'files').mkdir()
    for number in range(12):
        (tmp_path / 'files' / f'{number:04d}.jpg').write_bytes(image_bytes(number))
    shards, files = ImageDataset(tmp_path / 'shards', CROPS, shards='*.tar'), ImageDataset(tmp_path / 'files', CROPS)
    assert len(shards) == len(files) == 12
    for index in range(12):
        for name, value in shards[index].items():
            expected = files[index][name]
            assert torch.equal(value, expected) if torch.is_tensor(value) else value == expected
    assert shards.labels is None
    assert shards.source.shard_of.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    with pytest.raises(ValueError, match=r'train-001\.tar: 0005\.jpg is not a separate file'):
        shards.path(5)


def test_labels_come_from_text_or_json(tmp_path):
    labeled = ImageDataset(write_shards(tmp_path / 'a'), CROPS, with_label=True, shards='*.tar')
    assert labeled.labels.tolist() == [n % 3 for n in range(12)]
    assert labeled.metainfo['classes'] == ('0', '1', '2')
    assert labeled[4]['label'] == 1
    members = {'x.jpg': image_bytes(0), 'x.json': json.dumps(dict(label=7, caption='a')).encode()}
    write_tar(tmp_path / 'b' / '0.tar', members)
    assert ImageDataset(tmp_path / 'b', CROPS, with_label=True, shards='*.tar').labels.tolist() == [7]


def test_samples_are_keyed_by_the_path_up_to_the_first_dot(tmp_path):
    assert split_key(b'a/b.c/d.seg.PNG') == (b'a/b.c/d', b'.seg.png')
    members = {
        'a/1.cls': b'5',  # labels may come first
        'a/1.seg.png': image_bytes(9, 'png'),  # a mask, no image of its own
        'a/1.png': image_bytes(0, 'png'),
        'b/1.txt': b'words',
        'b/1.JPEG': image_bytes(1),
        'b/1.cls': b'6',
    }
    found = scan_shard(str(write_tar(tmp_path / 's.tar', members)))
    assert found.cut is None
    assert (found.names, found.labels) == ([b'a/1.png', b'b/1.JPEG'], [5, 6])


@pytest.mark.parametrize('kind', [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_every_tar_format(tmp_path, kind):
    name = '/'.join(['folder' * 5] * 3) + f'/{"n" * 60}.jpg'
    write_tar(tmp_path / 's.tar', {name: image_bytes(3)}, kind)
    source = TarSource(tmp_path, '*.tar')
    assert source.name(0) == f'{tmp_path}/s.tar: {name}'
    assert source.read(0) == image_bytes(3)


def test_a_range_in_braces(tmp_path):
    write_shards(tmp_path)
    found = find_shards(tmp_path, 'train-{000..001}.tar')
    assert [os.path.basename(path) for path in found] == ['train-000.tar', 'train-001.tar']
    with pytest.raises(FileNotFoundError, match=r'2 of 5 are missing; the first: .*train-003\.tar'):
        find_shards(tmp_path, 'train-{000..004}.tar')


@pytest.mark.parametrize('where', ['in an image', 'between images', 'before a label', 'no end marker'])
def test_a_shard_cut_short_gives_its_whole_images(tmp_path, said, where):
    write_shards(tmp_path, count=2)
    path = tmp_path / 'train-001.tar'
    with tarfile.open(path) as tar:
        members = {member.name: member for member in tar}
    end = {
        'in an image': members['0006.jpg'].offset_data + 300,
        'between images': members['0006.jpg'].offset,
        'before a label': members['0006.cls'].offset,
        'no end marker': members['0007.cls'].offset_data + 512,
    }[where]
    whole = 4 if where == 'no end marker' else 2
    os.truncate(path, end)
    dataset = ImageDataset(tmp_path, CROPS, shards='*.tar', with_label=True)
    looking, cut = said
    assert looking.startswith('indexing the images of 2 shards (cached in ')
    assert cut == f'{path} is truncated: using its {whole} complete images'
    assert len(dataset) == 4 + whole
    assert all(dataset[index]['unreadable'] == [] for index in range(len(dataset)))
    assert dataset.labels.tolist() == [n % 3 for n in range(4 + whole)]
    ImageDataset(tmp_path, CROPS, shards='*.tar')  # from the cache
    assert said[2:] == [cut]


def test_bad_shards_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match='data_root .* does not exist; set data_root'):
        ImageDataset(tmp_path / 'no', CROPS, shards='*.tar')
    with pytest.raises(FileNotFoundError, match=r"no shard in .* matches shards='\*\.tar'"):
        ImageDataset(tmp_path, CROPS, shards='*.tar')
    write_shards(tmp_path / 'a', count=1)
    for content in (b'', b'no tar at all' * 100, (tmp_path / 'a' / 'train-000.tar').read_bytes()[:800]):
        (tmp_path / 'a' / 'train-001.tar').write_bytes(content)
        with pytest.raises(ValueError, match=r'train-001\.tar \([\d,]+ bytes\) has no complete image: it is truncated'):
            ImageDataset(tmp_path / 'a', CROPS, shards='*.tar')
    write_tar(tmp_path / 'b' / '0.tar', {'a.jpg': image_bytes(0), 'a.cls': b'1', 'b.jpg': image_bytes(1), 'b.cls': b'dog'})
    with pytest.raises(ValueError, match=r'1 of 2 images have no label, the first: b\.jpg in .*0\.tar; add a <key>\.cls'):
        ImageDataset(tmp_path / 'b', CROPS, shards='*.tar', with_label=True)
    with pytest.raises(ValueError, match='set only one of them'):
        ImageDataset(tmp_path / 'b', CROPS, shards='*.tar', ann_file='list.txt')


def test_damage_after_the_index_was_made_is_an_unreadable_image(tmp_path):
    dataset = ImageDataset(write_shards(tmp_path, count=2), CROPS, shards='*.tar')
    os.truncate(tmp_path / 'train-001.tar', int(dataset.source._offsets[6]) + 100)
    sample = dataset[6]
    assert 'train-001.tar: 0006.jpg: the shard ends ' in sample['unreadable'][0]
    assert len(sample['unreadable']) == 2  # and the one after it
    assert sample['index'] == 0
    (tmp_path / 'train-000.tar').unlink()
    (tmp_path / 'train-001.tar').unlink()
    dataset.source._files.clear()
    with pytest.raises(UnreadableImageError, match=r'train-000\.tar: 0000\.jpg: .*No such file'):
        dataset[0]


def test_the_index_is_made_once_for_shards_as_they_are(tmp_path, monkeypatch):
    root = write_shards(tmp_path / 'shards')
    scans = []
    monkeypatch.setattr(tar_index, 'scan_shard', lambda path: scans.append(path) or scan_shard(path))
    first, again = (read_shards(root, '*.tar', True)[1] for _ in range(2))
    assert len(scans) == 3
    assert first.arrays().keys() == again.arrays().keys()
    assert all(np.array_equal(array, again.arrays()[name]) for name, array in first.arrays().items())
    assert isinstance(again.offsets.base, np.memmap)
    write_tar(root / 'train-001.tar', {'new.jpg': image_bytes(1)})
    assert len(read_shards(root, '*.tar', False)[1].offsets) == 9
    (cache,) = (path for path in (tmp_path / 'cache' / 'mmadclr').glob('*/offsets.npy') if np.load(path).size == 9)
    for damage in (lambda: os.truncate(cache, 150), cache.unlink):  # a damaged cache is made anew
        damage()
        assert read_shards(root, '*.tar', False)[1].offsets.shape == np.load(cache).shape == (9,)
    assert {path.name[:6] for path in (tmp_path / 'cache' / 'mmadclr').iterdir()} == {'index-'}  # nothing left behind


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    assert len(read_shards(write_shards(tmp_path / 'shards'), '*.tar', False)[1].offsets) == 12


def test_few_files_stay_open_and_forks_open_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr('mmadclr.datasets.sources.MAX_OPEN_SHARDS', 2)
    source = TarSource(write_shards(tmp_path), '*.tar')
    for index in (0, 5, 9, 1, 6):
        assert source.read(index) == image_bytes(index)
        assert len(source._files) <= 2
    mine = dict(source._files)
    monkeypatch.setattr('mmadclr.datasets.sources.os.getpid', lambda: -1)
    assert source.read(0) == image_bytes(0)
    assert not set(source._files.values()) & set(mine.values())
    assert source.__getstate__()['_files'] == {}


def test_a_sample_twice_in_a_shard_is_an_error(tmp_path):
    write_shards(tmp_path, count=2)
    read_shards(tmp_path, '*.tar', True)
    for name in ('0005.jpg', '0005.JPG', '0005.cls'):
        path = write_shards(tmp_path, count=2) / 'train-001.tar'
        with tarfile.open(path, 'a') as tar:
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b'1'))
        with pytest.raises(ValueError, match=rf'train-001\.tar: duplicate member {name}, .*unpack it .*and pack it again'):
            read_shards(tmp_path, '*.tar', True)


def test_the_same_key_in_two_shards_counts_twice(tmp_path):
    for number in range(2):
        write_tar(tmp_path / f'{number}.tar', {'a.jpg': image_bytes(number)})
    source = TarSource(tmp_path, '*.tar')
    assert [source.read(index) for index in range(2)] == [image_bytes(0), image_bytes(1)]


def test_what_is_left_out_is_said(tmp_path, said):
    path = write_tar(tmp_path / '0.tar', {'a.jpg': image_bytes(0), 'a.png': image_bytes(1, 'png'), 'a.txt': b'words'})
    with tarfile.open(path, 'a') as tar:
        for kind, name in ((tarfile.LNKTYPE, 'b.jpg'), (tarfile.SYMTYPE, 'c.jpg')):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, 'a.jpg'
            tar.addfile(member)
    assert TarSource(tmp_path, '*.tar').key(0) == b'0.tar: a.jpg'
    assert said[1:] == [
        f'{tmp_path}: skipped 2 links in shards (b.jpg)',
        f'{tmp_path}: skipped 1 additional images of samples in shards (a.png)',
    ]


def test_progress_is_logged_now_and_then(tmp_path, said):
    scans = [scan_shard(str(path)) for path in sorted(write_shards(tmp_path).iterdir())]
    times = iter([0.0, 20.0, 40.0, 60.0])
    assert list(tar_index._told(scans, 3, lambda: next(times))) == scans
    assert said == ['2 of 3 shards, 8 images, 0 min left']


def test_shards_by_several_patterns(tmp_path):
    write_shards(tmp_path)
    names = [os.path.basename(path) for path in find_shards(tmp_path, ['train-{001..002}.tar', 'train-000.tar'])]
    assert names == ['train-000.tar', 'train-001.tar', 'train-002.tar']
    with pytest.raises(ValueError, match=r'train-001\.tar is listed twice'):
        find_shards(tmp_path, ['*.tar', 'train-001.tar'])
    with pytest.raises(ValueError, match=r'shards=\[\]: the list is empty'):
        find_shards(tmp_path, [])
